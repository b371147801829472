import math

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.ngrams import NGramEmbedding


class Transformer(nn.Module):
    """A pre-norm Transformer encoder (Vaswani et al. 2017; Xiong et al. 2020), and a linear layer on its mean output.

    Args:
        width: size of the vector of a token; a multiple of `num_heads`.
        num_layers: blocks of attention and MLP.
        num_heads: heads of the attention.
        dropout: probability of dropping an element of an input or of a residual branch.
        ngrams: the vector of a token includes the n-grams of up to so many tokens that end with it.
        ngram_buckets: number of vectors for all n-grams: see `NGramEmbedding`.
    """

    def __init__(
        self,
        vocab_size: PositiveInt,
        num_classes: PositiveInt,
        width: PositiveInt = 128,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        dropout: Fraction = 0.1,
        ngrams: PositiveInt = 1,
        ngram_buckets: PositiveInt = 20_000,
    ) -> None:
        super().__init__()
        self.embed = Embed(vocab_size, width, dropout, ngrams, ngram_buckets)
        self.encoder = TransformerEncoder(width, num_layers, num_heads, dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, token: Tensor) -> Tensor:
        """(B, T) token -> (B, num_classes) logits."""
        there = (token != 0).unsqueeze(-1)
        x = self.encoder(self.embed(token), padding_mask(token))
        return self.head((x * there).sum(1) / there.sum(1).clamp(min=1))


class Embed(nn.Module):
    """Learned vectors of tokens, plus sines and cosines of their positions."""

    def __init__(self, vocab_size: int, width: int, dropout: float, ngrams: int = 1, ngram_buckets: int = 1) -> None:
        super().__init__()
        self.embed = NGramEmbedding(vocab_size, width, ngrams, ngram_buckets)
        nn.init.normal_(self.embed.weight, std=width**-0.5)  # also suits an output layer with the same weights
        self.dropout = nn.Dropout(dropout)

    def forward(self, token: Tensor, start: Tensor | int = 0) -> Tensor:
        """(B, T) token, the first at position `start` -> (B, T, width)."""
        width = self.embed.embedding_dim
        exact = torch.float32  # 16 bits do not distinguish large positions
        position = start + torch.arange(token.shape[1], dtype=exact, device=token.device)
        rate = torch.exp(torch.arange(0, width, 2, dtype=exact, device=token.device) * (-math.log(10_000) / width))
        angle = position.unsqueeze(1) * rate
        places = torch.cat([angle.sin(), angle.cos()], -1)[:, :width].to(self.embed.weight.dtype)
        return self.dropout(self.embed(token) * width**0.5 + places)


class TransformerEncoder(nn.Module):
    """Blocks, then a norm."""

    def __init__(self, width: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), and a mask as for `Attention` -> (B, T, width)."""
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class EncoderBlock(nn.Module):
    """x + attention(x), then x + MLP(x)."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = mlp(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), and a mask as for `Attention` -> (B, T, width)."""
        y = self.norm(x)
        x = x + self.dropout(self.attention(y, self.attention.keys(y), mask))
        return x + self.dropout(self.mlp(x))


class Attention(nn.Module):
    """Scaled dot-product attention with several heads."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width={width} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def keys(self, memory: Tensor) -> Tensor:
        """(B, S, width) -> (B, 2, heads, S, width / heads): the keys and the values of the attended positions."""
        return self.key_value(memory).unflatten(-1, (2, self.num_heads, -1)).permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, T, width) x, and the keys of S positions -> (B, T, width).

        `mask` is (B, 1, 1, S), true for the positions to attend to. With `is_causal`, the S positions are the T
        positions, and each attends to itself and earlier ones.
        """
        key, value = keys.unbind(1)
        y = F.scaled_dot_product_attention(self._heads(x), key, value, attn_mask=mask, is_causal=is_causal)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """(B, T, S) attention weights, the mean over the heads. Each row sums to 1."""
        query, key = self._heads(x), keys[:, 0]
        scores = query @ key.transpose(-2, -1) / key.shape[-1] ** 0.5
        return scores.masked_fill(~mask, -math.inf).softmax(-1).mean(1)

    def _heads(self, x: Tensor) -> Tensor:
        return self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def mlp(width: int, dropout: float) -> nn.Sequential:
    """A norm, then two linear layers with 4 · width hidden units."""
    layers = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(*layers, nn.Linear(4 * width, width))


def padding_mask(token: Tensor) -> Tensor:
    """(B, S) token -> (B, 1, 1, S), false for padding."""
    return (token != 0)[:, None, None]
