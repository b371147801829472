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
            x = block(x, state[f"source{i}"], state["mask"])
        return self._logits(x)

    def encode(self, token: Tensor) -> dict[str, Tensor]:
        """(B, S) token -> what `decode` starts from; every tensor has a row for each sentence."""
        mask = padding_mask(token)
        memory = self.encoder(self.embed(token), mask)
        source = {f"source{i}": block.cross.keys(memory) for i, block in enumerate(self.blocks)}
        room = {f"past{i}": keys[:, :, :, :0] for i, keys in enumerate(source.values())}
        return {"mask": mask, "num": token.new_zeros(len(token))} | source | room

    def decode(self, target: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, and the state -> (B, target_vocab_size) next logits, and what is new of the state.

        The old state is no longer to be used: the new one has its keys in the same memory.
        """
        num = int(state["num"][0])
        past = {f"past{i}": _with_room(state[f"past{i}"], num) for i in range(len(self.blocks))}
        x = self.target_embed(target.unsqueeze(1), start=num)
        for i, block in enumerate(self.blocks):
            x = block(x, state[f"source{i}"], state["mask"], past[f"past{i}"], num)
        return self._logits(x).squeeze(1), past | {"num": state["num"] + 1}

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """What the last block takes from each source token for each next one: (B, T, S), the mean over its heads."""
        state, x = self.encode(token), self.target_embed(target)
        *blocks, last = self.blocks
        for i, block in enumerate(blocks):
            x = block(x, state[f"source{i}"], state["mask"])
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

    def forward(self, x: Tensor, source: Tensor, mask: Tensor, past: Tensor | None = None, num: int = 0) -> Tensor:
        """(B, T, width), and the keys of the source -> (B, T, width).

        `past` has the keys of the `num` tokens before a single new one, and room for its own; None: there are none.
        """
        x = self._look_back(x, past, num)
        x = x + self.dropout(self.cross(self.cross_norm(x), source, mask))
        return x + self.dropout(self.mlp(x))

    def weights(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, S), what is taken from the source."""
        return self.cross.weights(self.cross_norm(self._look_back(x)), source, mask)

    def _look_back(self, x: Tensor, past: Tensor | None = None, num: int = 0) -> Tensor:
        y = self.norm(x)
        keys = self.attention.keys(y)
        if past is not None:
            past[:, :, :, num] = keys[:, :, :, 0]
            keys = past[:, :, :, : num + 1]
        return x + self.dropout(self.attention(y, keys, is_causal=past is None))


def _with_room(past: Tensor, num: int) -> Tensor:
    """Keys of `num` tokens, with room for another: twice as much whenever it is full, so that few are ever copied."""
    if num < past.shape[3]:
        return past
    return torch.cat([past, past.new_zeros(*past.shape[:3], max(16, num), past.shape[4])], 3)
