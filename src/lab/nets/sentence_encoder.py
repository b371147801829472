from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from lab.types import Fraction


class SentenceEncoder(nn.Module):
    """A pretrained encoder of Hugging Face's transformers, the mean of its last states, and a linear layer.

    Args:
        name: a folder that `save_pretrained` made, or a name on the hub; the data's tokenizer is to be the same.
        weights: DEFAULT: the pretrained ones; null: none, as for a checkpoint to be loaded.
        frozen: they stay as they are, and the encoder's own dropout is off.
        dropout: probability of dropping a number of the mean.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        vocab_size: PositiveInt,
        max_length: PositiveInt,
        name: str | None,
        weights: Literal["DEFAULT"] | None = "DEFAULT",
        frozen: bool = False,
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if name is None:
            raise ValueError("say which encoder, with net.name=FOLDER, or a name on Hugging Face's hub")
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise ValueError("it takes transformers: pip install 'lab[pretrained]'") from error
        config = AutoConfig.from_pretrained(name)
        if config.vocab_size < vocab_size or config.pad_token_id != 0:
            raise ValueError(f"{name} reads other tokens than the data has: data.tokenizer={name}")
        if config.max_position_embeddings < max_length:
            raise ValueError(f"{name} reads {config.max_position_embeddings} tokens: data.max_length is to be no more")
        self.encoder = AutoModel.from_pretrained(name) if weights else AutoModel.from_config(config)
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.hidden_size, num_classes))
        self.train()  # transformers returns what is for evaluation, and Lightning leaves it at that

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        if self.frozen:
            self.encoder.eval()
        inside = token != 0
        state = self.encoder(input_ids=token, attention_mask=inside.long()).last_hidden_state
        weight = inside.to(state.dtype)[..., None]
        return self.head((state * weight).sum(1) / weight.sum(1))
