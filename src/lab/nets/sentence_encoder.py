import json

from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction


class SentenceEncoder(nn.Module):
    """A pretrained encoder of Hugging Face's transformers, the mean of its last states, and a linear layer.

    Args:
        encoder_config: the JSON of its configuration, which the data reads with the tokenizer of the encoder.
        weights: a folder written by `save_pretrained`, or a name on the hub; null: random weights.
        frozen: do not train the encoder, and switch its dropout off.
        dropout: probability of dropping an element of the mean.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        vocab_size: PositiveInt,
        max_length: PositiveInt,
        encoder_config: str | None,
        weights: str | None,
        frozen: bool = False,
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if encoder_config is None:
            raise ValueError("expected an encoder: set data.tokenizer to a folder, or to a name on Hugging Face's hub")
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise ValueError("it needs transformers: pip install 'lab-template[pretrained]'") from error
        try:
            config = AutoConfig.for_model(**json.loads(encoder_config))
        except Exception as error:  # several libraries raise different errors
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"transformers does not accept its config.json ({reason})") from error
        if config.is_encoder_decoder:
            raise ValueError(f"{config.model_type} is not an encoder: it has a decoder")
        if config.vocab_size < vocab_size:
            raise ValueError(f"the encoder has {config.vocab_size} tokens, but its tokenizer {vocab_size}")
        if (most := getattr(config, "max_position_embeddings", max_length)) < max_length:
            raise ValueError(f"the encoder accepts {most} tokens: set data.max_length to at most {most}")
        self.encoder = AutoModel.from_pretrained(weights) if weights else AutoModel.from_config(config)
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.hidden_size, num_classes))
        self.train()  # transformers returns modules in eval mode, and Lightning keeps the mode

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        if self.frozen:
            self.encoder.eval()
        inside = token != 0
        state = self.encoder(input_ids=token, attention_mask=inside.long()).last_hidden_state
        weight = inside.to(state.dtype)[..., None]
        return self.head((state * weight).sum(1) / weight.sum(1))
