"""Random numbers that depend on a key and a sample only, not on what was drawn before.

The numbers of a sample are bitwise the same in every batch, in every order, on every device and with any number of
processes. They are computed with int64 arithmetic only, which can be exported.
"""

import hashlib
import math
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

TABLE_BITS, NUM_TERMS = 12, 4  # a normal number is the sum of 4 entries of a table of 2**12 quantiles
UNIT = 2**32  # the table has integers, in units of 1 / UNIT


def uniform(key: str, index: Tensor, *shape: int) -> Tensor:
    """(B,) sample index -> (B, *shape) float32 in [0, 1)."""
    return fraction(bits(hashed(key), index, math.prod(shape))).reshape(index.shape[0], *shape)


def normal(key: str, index: Tensor, *shape: int) -> Tensor:
    """(B,) sample index -> (B, *shape) float32 of mean 0 and variance 1.

    The last bit of a logarithm or a cosine differs between devices, and between the parts of a vector. A sum of
    integers does not differ. The largest number is 7.4.
    """
    number, table = bits(hashed(key), index, math.prod(shape)).flatten(), quantiles(index.device)
    parts = ((number >> (64 - TABLE_BITS * (i + 1))) & (2**TABLE_BITS - 1) for i in range(NUM_TERMS))
    total = sum((table.index_select(0, part) for part in parts), torch.zeros_like(number))
    return (total.float() / UNIT).reshape(index.shape[0], *shape)


def quantiles(device: torch.device) -> Tensor:
    """The table on a device. The copy on a GPU is kept: a copy waits for the GPU."""
    if device.type == "cpu" or torch.compiler.is_compiling():  # a traced copy cannot be kept
        return QUANTILES.to(device)
    return _copied(device)


@cache
def _copied(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the first call may come from evaluation
        return QUANTILES.to(device)


def joined(seed: Tensor, index: Tensor) -> Tensor:
    """(B,) seeds, (B,) sample indices -> (B,) int64 in the place of the indices: each seed draws other numbers."""
    return mix(mix(seed) + index)


def hashed(key: str) -> int:
    """The first 64 bits of the BLAKE2b hash of a key, as int64."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def bits(key: Tensor | int, index: Tensor, num: int) -> Tensor:
    """(B,) sample index -> (B, num) int64 of 64 random bits."""
    counter = index[:, None] * num + torch.arange(num, device=index.device)
    return mix(mix(counter) + key)


def fraction(number: Tensor) -> Tensor:
    """The upper 24 of 64 bits as float32 in [0, 1)."""
    return ((number >> 40) & 0xFFFFFF).float() / 2**24


def mix(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014) on wrapping int64: every bit of the result depends on every bit of `x`."""
    x = x + -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def _quantiles() -> Tensor:
    """2**TABLE_BITS quantiles of the normal distribution, scaled so that a sum of NUM_TERMS entries has variance 1."""
    num = 2**TABLE_BITS
    upper = [NormalDist().inv_cdf((i + 0.5) / num) for i in range(num // 2, num)]
    scale = UNIT / math.sqrt(NUM_TERMS * sum(q * q for q in upper) / len(upper))
    rounded = [round(q * scale) for q in upper]
    return torch.tensor([-q for q in reversed(rounded)] + rounded)


QUANTILES = _quantiles()
