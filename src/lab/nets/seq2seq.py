import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.nets.recurrent import CELLS, at, mirrored
from lab.nets.transformer import padding_mask
from lab.types import Fraction


class Seq2Seq(nn.Module):
    """A recurrent encoder and decoder with global attention (Luong et al. 2015, "general" score, no input feeding).

    The encoder reads in both directions (Bahdanau et al. 2015). The output layer is the target's embedding.

    Args:
        shared_vocabulary: source and target have one, and so one embedding.
        width: of a token's vector, and of every layer's output; even.
        num_layers: of the encoder, and of the decoder.
        dropout: probability of dropping a number of an input, or of a layer's output.
    """

    def __init__(
        self,
        vocab_size: PositiveInt,
        target_vocab_size: PositiveInt,
        cell: Literal["gru", "lstm"],
        shared_vocabulary: bool = False,
        width: PositiveInt = 256,
        num_layers: PositiveInt = 1,
        dropout: Fraction = 0.2,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width={width} is odd: half of it reads in each direction")
        self.embed = nn.Embedding(vocab_size, width)
        self.target_embed = self.embed if shared_vocabulary else nn.Embedding(target_vocab_size, width)
        for embed in (self.embed, self.target_embed):
            nn.init.normal_(embed.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(cell, width, num_layers, dropout)
        self.num_states = 2 if cell == "lstm" else 1  # h, and c
        self.bridge = nn.Linear(width, self.num_states * num_layers * width)
        between = dropout if num_layers > 1 else 0.0
        self.decoder = CELLS[cell](width, width, num_layers, batch_first=True, dropout=between)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)

    def forward(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, S) token, (B, T) target so far -> (B, T, target_vocab_size) logits of what comes next at each place."""
        logits, _ = self._read(target, self.encode(token))
        return logits

    def encode(self, token: Tensor) -> dict[str, Tensor]:
        """(B, S) token -> what `decode` starts from; every tensor has a row for each sentence."""
        memory = self.encoder(self._embedded(self.embed, token), token)
        last = (token != 0).sum(1) - 1
        forward, backward = memory.chunk(2, -1)  # each has read everything at its own end
        ends = torch.cat([forward[torch.arange(len(token), device=token.device), last], backward[:, 0]], -1)
        hidden = self.bridge(ends).tanh().unflatten(-1, (self.num_states, -1, memory.shape[-1]))
        return {"memory": memory, "keys": self.score(memory), "mask": padding_mask(token)[:, 0], "hidden": hidden}

    def decode(self, target: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, and the state -> (B, target_vocab_size) next logits, and what is new of the state."""
        logits, hidden = self._read(target.unsqueeze(1), state)
        return logits.squeeze(1), {"hidden": hidden}

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """What is taken from each source token for each next one: (B, T, S)."""
        state = self.encode(token)
        return _weights(self._decoded(target, state["hidden"])[0], state)

    def _read(self, target: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x, hidden = self._decoded(target, state["hidden"])
        context = _weights(x, state) @ state["memory"]
        x = self.dropout(self.combine(torch.cat([context, x], -1)).tanh())
        return F.linear(x, self.target_embed.weight), hidden

    def _decoded(self, target: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, width) output of the decoder's cells, and (B, 1 or 2, layers, width) what they remember at the end."""
        first = tuple(part.contiguous() for part in hidden.permute(1, 2, 0, 3))
        x, last = self.decoder(self._embedded(self.target_embed, target), first if self.num_states == 2 else first[0])
        return x, torch.stack(last if self.num_states == 2 else [last]).permute(2, 0, 1, 3)

    def _embedded(self, embed: nn.Embedding, token: Tensor) -> Tensor:
        return self.dropout(embed(token) * embed.embedding_dim**0.5)


class Encoder(nn.Module):
    """Recurrent layers; half of each reads a sequence from its own end, so that padding changes nothing."""

    def __init__(self, cell: str, width: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(CELLS[cell](width, width // 2, batch_first=True) for _ in range(num_layers))
        self.backwards = nn.ModuleList(CELLS[cell](width, width // 2, batch_first=True) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """(B, S, width), of (B, S) token -> (B, S, width)."""
        places = mirrored(token)
        for forward, backward in zip(self.forwards, self.backwards, strict=True):
            x = self.dropout(torch.cat([forward(x)[0], at(places, backward(at(places, x))[0])], -1))
        return x


def _weights(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    scores = x @ state["keys"].transpose(1, 2)
    return scores.masked_fill(~state["mask"], -math.inf).softmax(-1)
