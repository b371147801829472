from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.nets.transformer import Attention, Embed, Encoder, mlp, padding_mask
from lab.types import Fraction


class TransformerSeq2Seq(nn.Module):
    """The Transformer (Vaswani et al. 2017), each norm before its layer; its output layer is the target's embedding.

    Args:
        shared_vocabulary: source and target have one, and so one embedding.
        width: of a token's vector; a multiple of `num_heads`.
        num_layers: blocks of the encoder, and of the decoder.
        num_heads: of each attention.
        dropout: probability of dropping an input, or what a layer adds to it.
    """

    def __init__(
        self,
        vocab_size: PositiveInt,
        target_vocab_size: PositiveInt,
        shared_vocabulary: bool = False,
        width: PositiveInt = 128,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__()
        self.embed = Embed(vocab_size, width, dropout)
        self.target_embed = self.embed if shared_vocabulary else Embed(target_vocab_size, width, dropout)
        self.encoder = Encoder(width, num_layers, num_heads, dropout)
        self.blocks: Any = nn.ModuleList(DecoderBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, S) token, (B, T) target so far -> (B, T, target_vocab_size) logits of what comes next at each place."""
        state, x = self.encode(token), self.target_embed(target)
        for i, block in enumerate(self.blocks):
            x, _ = block(x, None, state[f"source{i}"], state["mask"])
        return self._logits(x)

    def encode(self, token: Tensor) -> dict[str, Tensor]:
        """(B, S) token -> what `decode` starts from; every tensor has a row for each sentence."""
        mask = padding_mask(token)
        memory = self.encoder(self.embed(token), mask)
        source = {f"source{i}": block.read(memory) for i, block in enumerate(self.blocks)}
        nothing = {f"past{i}": keys[:, :, :, :0] for i, keys in enumerate(source.values())}
        return {"mask": mask} | source | nothing

    def decode(self, target: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, and the state -> (B, target_vocab_size) logits of the next one, and the new state."""
        x, past = self.target_embed(target.unsqueeze(1), start=state["past0"].shape[3]), {}
        for i, block in enumerate(self.blocks):
            x, past[f"past{i}"] = block(x, state[f"past{i}"], state[f"source{i}"], state["mask"])
        return self._logits(x).squeeze(1), state | past

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """What the last block takes from each source token for each next one: (B, T, S), the mean over its heads."""
        state, x = self.encode(token), self.target_embed(target)
        *blocks, last = self.blocks
        for i, block in enumerate(blocks):
            x, _ = block(x, None, state[f"source{i}"], state["mask"])
        return last.weights(x, state[f"source{len(blocks)}"], state["mask"])

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.target_embed.embed.weight)


class DecoderBlock(nn.Module):
    """x + attention to itself, x + attention to the source, x + MLP(x)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, num_heads)
        self.mlp = mlp(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor | None, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, width) -> the same, and the keys of all target tokens so far.

        `past` has those of the tokens before a single new one; None: these are all. `source` is what `read` made of it.
        """
        x, keys = self._look_back(x, past)
        x = x + self.dropout(self.cross(self.cross_norm(x), source, mask))
        return x + self.dropout(self.mlp(x)), keys

    def read(self, memory: Tensor) -> Tensor:
        """(B, S, width) -> the keys of the source."""
        return self.cross.keys(memory)

    def weights(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, S), what is taken from the source."""
        x, _ = self._look_back(x, None)
        return self.cross.weights(self.cross_norm(x), source, mask)

    def _look_back(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        keys = self.attention.keys(y)
        if past is not None:
            keys = torch.cat([past, keys], 3)
        return x + self.dropout(self.attention(y, keys, is_causal=past is None)), keys
