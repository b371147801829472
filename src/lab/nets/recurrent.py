import math
from functools import partial
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.ngrams import NGramEmbedding, NGramLinear

CELLS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """Layers of recurrent cells over embedded tokens, then the attention-weighted mean and the maximum of the outputs.

    Padding, token 0 at the end, changes no logit: the backward direction reverses each sequence within its length, and
    outputs at padding are masked.

    Args:
        cell: tanh units (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014).
        embedding_dim: size of the vector of a token.
        hidden: units of a layer, in each direction.
        bidirectional: each layer reads in both directions.
        dropout: probability of dropping an element of an embedding or of the output of a layer.
        ngrams: the vector of a token includes the n-grams of up to so many tokens that end with it.
        ngram_buckets: number of vectors, and of logits, for all n-grams: see `NGramEmbedding`.
        linear_ngrams: add logits that are linear in n-grams of up to so many tokens (Cheng et al. 2016); 0: none.
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
        ngrams: PositiveInt = 1,
        ngram_buckets: PositiveInt = 20_000,
        linear_ngrams: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.embedding = NGramEmbedding(vocab_size, embedding_dim, ngrams, ngram_buckets)
        self.embedding.weight.data.mul_(0.1)  # the default deviation of 1 is too large for rare words
        directions = 2 if bidirectional else 1
        sizes = [embedding_dim, *[directions * hidden] * num_layers]
        make = partial(CELLS[cell], hidden_size=hidden, batch_first=True)
        self.from_start = nn.ModuleList(make(size) for size in sizes[:-1])
        self.from_end = nn.ModuleList(make(size) for size in sizes[:-1]) if bidirectional else None
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Sequential(nn.Linear(sizes[-1], hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.head = nn.Linear(2 * sizes[-1], num_classes)
        self.linear = None
        if linear_ngrams:
            self.linear = NGramLinear(vocab_size, num_classes, linear_ngrams, ngram_buckets, dropout)

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        x = self.dropout(self.embedding(token))
        places = mirrored(token)
        for i, cell in enumerate(self.from_start):
            output, _ = cell(x)
            if self.from_end is not None:
                output = torch.cat([output, at(places, self.from_end[i](at(places, x))[0])], -1)
            x = self.dropout(output)
        inside = (token != 0).unsqueeze(-1)
        weight = self.attention(x).masked_fill(~inside, -math.inf).softmax(1)
        logits = self.head(torch.cat([(weight * x).sum(1), x.masked_fill(~inside, -math.inf).amax(1)], -1))
        return logits if self.linear is None else logits + self.linear(token)


def mirrored(token: Tensor) -> Tensor:
    """(B, T) token -> (B, T, 1) position of each token in the reversed sequence. Padding keeps its position."""
    inside, place = token != 0, torch.arange(token.shape[1], device=token.device)
    return torch.where(inside, inside.sum(1, keepdim=True) - 1 - place, place).unsqueeze(-1)


def at(place: Tensor, x: Tensor) -> Tensor:
    """(B, T, width) x, and (B, T, 1) positions -> (B, T, width) x at these positions."""
    return x.gather(1, place.expand_as(x))
