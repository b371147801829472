from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.transformer import Attention, Embed, TransformerEncoder, mlp, padding_mask


class TransformerSeq2Seq(nn.Module):
    """The pre-norm Transformer (Vaswani et al. 2017). The output layer has the weights of the target embedding.

    Args:
        shared_vocabulary: source and target have one vocabulary, and one embedding.
        width: size of the vector of a token; a multiple of `num_heads`.
        num_layers: blocks of the encoder, and of the decoder.
        num_heads: heads of each attention.
        dropout: probability of dropping an element of an input or of a residual branch.
    """

    def __init__(
        self,
        text_vocab_size: PositiveInt,
        target_vocab_size: PositiveInt,
        shared_vocabulary: bool = False,
        width: PositiveInt = 128,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__()
        self.embed = Embed(text_vocab_size, width, dropout)
        self.target_embed = self.embed if shared_vocabulary else Embed(target_vocab_size, width, dropout)
        self.encoder = TransformerEncoder(width, num_layers, num_heads, dropout)
        self.blocks: Any = nn.ModuleList(DecoderBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, S) token, (B, T) target -> (B, T, target_vocab_size) logits of the next token at each position."""
        memory, x = self._memory(token), self.target_embed(target)
        for i, block in enumerate(self.blocks):
            x = block(x, memory[f"source{i}"], memory["mask"])
        return self._logits(x)

    def encode(self, token: Tensor, max_length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(B, S) token -> the memory for each call of `decode`, and its first state; each has a row per sentence.

        The state grows with the target; when exporting, it has room for `max_length` tokens from the start.
        """
        memory = self._memory(token)
        num, keys = token.new_zeros(token.shape[0]), memory["source0"]
        room = keys.new_zeros(*keys.shape[:3], max_length if torch.compiler.is_exporting() else 0, keys.shape[4])
        return memory, {"num": num} | {f"past{i}": room.clone() for i in range(len(self.blocks))}

    def decode(
        self, target: Tensor, memory: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, memory, state -> (B, target_vocab_size) logits of the next token, and the next state.

        Do not use the old state again: the new state overwrites its keys.
        """
        num = state["num"][:1] if torch.compiler.is_exporting() else int(state["num"][0])
        x, new = self.target_embed(target.unsqueeze(1), start=num), {"num": state["num"] + 1}
        for i, block in enumerate(self.blocks):
            x, new[f"past{i}"] = block.next(x, memory[f"source{i}"], memory["mask"], state[f"past{i}"], num)
        return self._logits(x).squeeze(1), new

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, T, S) attention weights of the source tokens in the last block, the mean over its heads."""
        memory, x = self._memory(token), self.target_embed(target)
        *blocks, last = self.blocks
        for i, block in enumerate(blocks):
            x = block(x, memory[f"source{i}"], memory["mask"])
        return last.weights(x, memory[f"source{len(blocks)}"], memory["mask"])

    def _memory(self, token: Tensor) -> dict[str, Tensor]:
        """The keys of the source in each block."""
        mask = padding_mask(token)
        encoded = self.encoder(self.embed(token), mask)
        return {"mask": mask} | {f"source{i}": block.cross.keys(encoded) for i, block in enumerate(self.blocks)}

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.target_embed.embed.weight)


class DecoderBlock(nn.Module):
    """x + self-attention(x), then x + attention to the source, then x + MLP(x)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, num_heads)
        self.mlp = mlp(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width) x, and the keys of the source -> (B, T, width)."""
        return self._rest(self._look_back(x), source, mask)

    def next(self, x: Tensor, source: Tensor, mask: Tensor, past: Tensor, num: Tensor | int) -> tuple[Tensor, Tensor]:
        """The same for the next token, after `num` tokens with the keys `past`; and `past` with its keys."""
        y = self.norm(x)
        past, seen, there = _longer(past, self.attention.keys(y), num)
        return self._rest(x + self.dropout(self.attention(y, seen, there)), source, mask), past

    def weights(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, S) attention weights of the source tokens."""
        return self.cross.weights(self.cross_norm(self._look_back(x)), source, mask)

    def _look_back(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.dropout(self.attention(y, self.attention.keys(y), is_causal=True))

    def _rest(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.cross(self.cross_norm(x), source, mask))
        return x + self.dropout(self.mlp(x))


def _longer(past: Tensor, keys: Tensor, num: Tensor | int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Append the keys of a token to those of `num` tokens: all keys, the keys to read, and a mask for `Attention`.

    When exporting, `num` is a (1,) tensor, no size changes, and nothing changes in place. Otherwise `past` changes in
    place. If it is full, its length doubles, so that few keys are copied.
    """
    if isinstance(num, Tensor):
        past = past.index_copy(3, num, keys)
        return past, past, (torch.arange(past.shape[3], device=past.device) <= num)[None, None, None]
    if num == past.shape[3]:
        past = torch.cat([past, past.new_zeros(*past.shape[:3], max(16, num), past.shape[4])], 3)
    past[:, :, :, num] = keys[:, :, :, 0]
    return past, past[:, :, :, : num + 1], None
