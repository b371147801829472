"""Random numbers that are a function of a key and a sample, whatever was drawn before them.

The numbers of a sample are bitwise the same in every batch, in every order, on every device and with any number of
processes. They are computed with int64 arithmetic alone, so that they can be exported.
"""

import hashlib
import math
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

TABLE_BITS, NUM_TERMS = 12, 4  # a normal number is the sum of 4 numbers that a table of 2**12 quantiles holds
UNIT = 2**32  # the table is in whole numbers of 1 / UNIT


def uniform(key: str, index: Tensor, *shape: int) -> Tensor:
    """(B,) sample index -> (B, *shape) float32 in [0, 1)."""
    return fraction(bits(hashed(key), index, math.prod(shape))).reshape(index.shape[0], *shape)


def normal(key: str, index: Tensor, *shape: int) -> Tensor:
    """(B,) sample index -> (B, *shape) float32 of mean 0 and variance 1.

    A logarithm or a cosine differs in its last bit between devices, and between the parts of a vector. A sum of whole
    numbers does not. The largest number is 7.4.
    """
    number, table = bits(hashed(key), index, math.prod(shape)).flatten(), quantiles(index.device)
    parts = ((number >> (64 - TABLE_BITS * (i + 1))) & (2**TABLE_BITS - 1) for i in range(NUM_TERMS))
    total = sum((table.index_select(0, part) for part in parts), torch.zeros_like(number))
    return (total.float() / UNIT).reshape(index.shape[0], *shape)


def quantiles(device: torch.device) -> Tensor:
    """The table; a GPU's copy is kept, for the way there is a wait."""
    if device.type == "cpu" or torch.compiler.is_compiling():  # a trace's copy is no numbers
        return QUANTILES.to(device)
    return _copied(device)


@cache
def _copied(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # evaluation may ask first
        return QUANTILES.to(device)


def hashed(key: str) -> int:
    """64 bits of a key's BLAKE2b, as int64 has them."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def bits(key: Tensor | int, index: Tensor, num: int) -> Tensor:
    """(B,) sample index -> (B, num) int64 of 64 random bits."""
    counter = index[:, None] * num + torch.arange(num, device=index.device)
    return mix(mix(counter) + key)


def fraction(number: Tensor) -> Tensor:
    """The upper 24 of 64 bits as float32 in [0, 1)."""
    return ((number >> 40) & 0xFFFFFF).float() / 2**24


def mix(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014), on int64 that wraps: every bit of the result depends on every bit of `x`."""
    x = x + -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def _quantiles() -> Tensor:
    """The means of NUM_TERMS numbers from this table add up to variance 1."""
    num = 2**TABLE_BITS
    upper = [NormalDist().inv_cdf((i + 0.5) / num) for i in range(num // 2, num)]
    scale = UNIT / math.sqrt(NUM_TERMS * sum(q * q for q in upper) / len(upper))
    rounded = [round(q * scale) for q in upper]
    return torch.tensor([-q for q in reversed(rounded)] + rounded)


QUANTILES = _quantiles()
