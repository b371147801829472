import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.recurrent import CELLS, at, mirrored
from lab.nets.transformer import padding_mask


class Seq2Seq(nn.Module):
    """A recurrent encoder and decoder with global attention (Luong et al. 2015, "general" score, no input feeding).

    The encoder reads in both directions (Bahdanau et al. 2015). The output layer is the target's embedding.

    Args:
        shared_vocabulary: source and target have one vocabulary, and one embedding.
        width: size of the vector of a token and of the output of each layer; even.
        num_layers: layers of the encoder, and of the decoder.
        dropout: probability of dropping an element of an input or of the output of a layer.
    """

    def __init__(
        self,
        text_vocab_size: PositiveInt,
        target_vocab_size: PositiveInt,
        cell: Literal["gru", "lstm"],
        shared_vocabulary: bool = False,
        width: PositiveInt = 256,
        num_layers: PositiveInt = 1,
        dropout: Fraction = 0.2,
    ) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width={width} is odd; expected an even number: each direction has half of the units")
        self.embed = nn.Embedding(text_vocab_size, width)
        self.target_embed = self.embed if shared_vocabulary else nn.Embedding(target_vocab_size, width)
        for embed in (self.embed, self.target_embed):
            nn.init.normal_(embed.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.encoder = RecurrentEncoder(cell, width, num_layers, dropout)
        self.num_states = 2 if cell == "lstm" else 1  # h and c
        self.bridge = nn.Linear(width, self.num_states * num_layers * width)
        between = dropout if num_layers > 1 else 0.0
        self.decoder = CELLS[cell](width, width, num_layers, batch_first=True, dropout=between)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)

    def forward(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, S) token, (B, T) target -> (B, T, target_vocab_size) logits of the next token at each position."""
        memory, state = self.encode(token, target.shape[1])
        return self._logits(self._decoded(target, state["hidden"]), memory)

    def encode(self, token: Tensor, max_length: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(B, S) token -> the memory for each call of `decode`, and its first state; each has a row per sentence."""
        memory = self.encoder(self._embedded(self.embed, token), token)
        last = (token != 0).sum(1) - 1
        forward, backward = memory.chunk(2, -1)  # each direction has read the whole sentence at its last token
        ends = torch.cat([forward[torch.arange(token.shape[0], device=token.device), last], backward[:, 0]], -1)
        hidden = self.bridge(ends).tanh().unflatten(-1, (self.num_states, -1, memory.shape[-1])).transpose(1, 2)
        return {"memory": memory, "keys": self.score(memory), "mask": padding_mask(token)[:, 0]}, {"hidden": hidden}

    def decode(
        self, target: Tensor, memory: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) latest token, memory, state -> (B, target_vocab_size) logits of the next token, and the next state."""
        x, new = self._embedded(self.target_embed, target), []
        for hidden, weights in zip(state["hidden"].unbind(1), self.decoder.all_weights, strict=True):
            new.append(self._next(x, hidden, *weights))
            x = new[-1][:, 0]
        return self._logits(x.unsqueeze(1), memory).squeeze(1), {"hidden": torch.stack(new, 1)}

    def attention(self, token: Tensor, target: Tensor) -> Tensor:
        """(B, T, S) attention weights of the source tokens for each next target token."""
        memory, state = self.encode(token, target.shape[1])
        return _weights(self._decoded(target, state["hidden"]), memory)

    def _logits(self, x: Tensor, memory: dict[str, Tensor]) -> Tensor:
        context = _weights(x, memory) @ memory["memory"]
        x = self.dropout(self.combine(torch.cat([context, x], -1)).tanh())
        return F.linear(x, self.target_embed.weight)

    def _decoded(self, target: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, width) output of the cells of the decoder, from the (B, layers, 1 or 2, width) states `hidden`."""
        first = tuple(part.contiguous() for part in hidden.permute(2, 1, 0, 3))
        return self.decoder(self._embedded(self.target_embed, target), first if self.num_states == 2 else first[0])[0]

    def _next(self, x: Tensor, hidden: Tensor, *weights: Tensor) -> Tensor:
        """(B, width) input, (B, 1 or 2, width) state of a layer -> its next state. The first row is the output.

        This is one step of `self.decoder`, which cannot be exported inside of a loop.
        """
        if self.num_states == 2:
            return torch.stack(torch.lstm_cell(x, hidden.unbind(1), *weights), 1)
        return torch.gru_cell(x, hidden[:, 0], *weights).unsqueeze(1)

    def _embedded(self, embed: nn.Embedding, token: Tensor) -> Tensor:
        return self.dropout(embed(token) * embed.embedding_dim**0.5)


class RecurrentEncoder(nn.Module):
    """Recurrent layers in both directions. The backward direction starts at the last token: padding changes nothing."""

    def __init__(self, cell: str, width: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.forwards = nn.ModuleList(CELLS[cell](width, width // 2, batch_first=True) for _ in range(num_layers))
        self.backwards = nn.ModuleList(CELLS[cell](width, width // 2, batch_first=True) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """(B, S, width) x, (B, S) token -> (B, S, width)."""
        places = mirrored(token)
        for forward, backward in zip(self.forwards, self.backwards, strict=True):
            x = self.dropout(torch.cat([forward(x)[0], at(places, backward(at(places, x))[0])], -1))
        return x


def _weights(x: Tensor, memory: dict[str, Tensor]) -> Tensor:
    scores = x @ memory["keys"].transpose(1, 2)
    return scores.masked_fill(~memory["mask"], -math.inf).softmax(-1)
