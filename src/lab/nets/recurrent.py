import math
from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.types import Fraction

CELLS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Embedded tokens through layers of recurrent cells, and the mean of their outputs as attention weighs them.

    Padding, token 0 at the end, changes nothing: what reads from the end reads each sequence reversed within its own
    length, and no output at padding is attended to.

    Args:
        cell: tanh units (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014).
        embedding_dim: of a token.
        hidden: units of a layer, in each direction.
        bidirectional: half of each layer reads from the end.
        dropout: probability of dropping a number of an embedding, or of a layer's output.
        token_dropout: probability of reading a token as unknown, token 1, in training.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        vocab_size: PositiveInt,
        cell: Literal["rnn", "lstm", "gru"],
        embedding_dim: PositiveInt = 64,
        hidden: PositiveInt = 64,
        num_layers: PositiveInt = 1,
        bidirectional: bool = True,
        dropout: Fraction = 0.0,
        token_dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.embedding.weight.data.mul_(0.1)  # torch's deviation of 1 drowns rare words
        directions = 2 if bidirectional else 1
        sizes = [embedding_dim, *[directions * hidden] * num_layers]
        make = partial(CELLS[cell], hidden_size=hidden, batch_first=True)
        self.from_start = nn.ModuleList(make(size) for size in sizes[:-1])
        self.from_end = nn.ModuleList(make(size) for size in sizes[:-1]) if bidirectional else None
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Sequential(nn.Linear(sizes[-1], hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        inside = token != 0
        if self.training and self.token_dropout:
            token = torch.where(inside & (torch.rand(token.shape, device=token.device) < self.token_dropout), 1, token)
        x = self.dropout(self.embedding(token))
        places = mirrored(token)
        for i, cell in enumerate(self.from_start):
            output, _ = cell(x)
            if self.from_end is not None:
                output = torch.cat([output, at(places, self.from_end[i](at(places, x))[0])], -1)
            x = self.dropout(output)
        score = self.attention(x).squeeze(-1).masked_fill(~inside, -math.inf)
        return self.head((score.softmax(1)[..., None] * x).sum(1))


def mirrored(token: Tensor) -> Tensor:
    """(B, T, 1) the place of each token where every sequence is read from its own end; that of padding stays."""
    inside, place = token != 0, torch.arange(token.shape[1], device=token.device)
    return torch.where(inside, inside.sum(1, keepdim=True) - 1 - place, place).unsqueeze(-1)


def at(place: Tensor, x: Tensor) -> Tensor:
    """(B, T, width) of (B, T, 1) places."""
    return x.gather(1, place.expand_as(x))
