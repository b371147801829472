from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.transformer import Attention, Embed, TransformerEncoder, mlp, padding_mask


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
        """(B, S) token, (B, T) target so far -> (B, T, target_vocab_size) logits of what comes next at each place."""
        memory, x = self._memory(token), self.target_embed(target)
        for i, block in enumerate(self.blocks):
            x = block(x, memory[f"source{i}"], memory["mask"])
        return self._logits(x)

    def encode(self, token: Tensor, max_length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(B, S) token -> what `decode` needs each time, and what it starts from; all have a row for each sentence.

        In a graph there is room for `max_length` tokens from the start; elsewhere it grows.
        """
        memory = self._memory(token)
        num, keys = token.new_zeros(token.shape[0]), memory["source0"]
        room = keys.new_zeros(*keys.shape[:3], max_length if torch.compiler.is_exporting() else 0, keys.shape[4])
        return memory, {"num": num} | {f"past{i}": room.clone() for i in range(len(self.blocks))}

    def decode(
        self, target: Tensor, memory: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, and what `encode` gave -> (B, target_vocab_size) next logits, and the next state.

        The old state is no longer to be used: the new one has its keys in the same memory.
        """
        num = state["num"][:1] if torch.compiler.is_exporting() else int(state["num"][0])
        x, new = self.target_embed(target.unsqueeze(1), start=num), {"num": state["num"] + 1}
        for i, block in enumerate(self.blocks):
            x, new[f"past{i}"] = block.next(x, memory[f"source{i}"], memory["mask"], state[f"past{i}"], num)
        return self._logits(x).squeeze(1), new

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """What the last block takes from each source token for each next one: (B, T, S), the mean over its heads."""
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
    """x + attention to itself, x + attention to the source, x + MLP(x)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, num_heads)
        self.mlp = mlp(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), and the keys of the source -> (B, T, width)."""
        return self._rest(self._look_back(x), source, mask)

    def next(self, x: Tensor, source: Tensor, mask: Tensor, past: Tensor, num: Tensor | int) -> tuple[Tensor, Tensor]:
        """The same for the token after those `num` whose keys are in `past`; and `past` with its keys too."""
        y = self.norm(x)
        past, seen, there = _longer(past, self.attention.keys(y), num)
        return self._rest(x + self.dropout(self.attention(y, seen, there)), source, mask), past

    def weights(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """(B, T, S), what is taken from the source."""
        return self.cross.weights(self.cross_norm(self._look_back(x)), source, mask)

    def _look_back(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.dropout(self.attention(y, self.attention.keys(y), is_causal=True))

    def _rest(self, x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.cross(self.cross_norm(x), source, mask))
        return x + self.dropout(self.mlp(x))


def _longer(past: Tensor, keys: Tensor, num: Tensor | int) -> tuple[Tensor, Tensor, Tensor | None]:
    """`num` tokens' keys and those of another; what of them is to be read, and a mask as for `Attention`.

    In a graph, where `num` is a (1,) tensor, nothing changes its size or is changed in place. Elsewhere `past` is, and
    where it is full it becomes twice as long, so that few keys are ever copied.
    """
    if isinstance(num, Tensor):
        past = past.index_copy(3, num, keys)
        return past, past, (torch.arange(past.shape[3], device=past.device) <= num)[None, None, None]
    if num == past.shape[3]:
        past = torch.cat([past, past.new_zeros(*past.shape[:3], max(16, num), past.shape[4])], 3)
    past[:, :, :, num] = keys[:, :, :, 0]
    return past, past[:, :, :, : num + 1], None
