"""Batches of samples of similar length, to have little padding."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def buckets(
    length: Tensor, order: Tensor, batch_size: int | None, tokens_per_batch: int | None, world_size: int = 1
) -> list[list[int]]:
    """Group samples into batches: each sample in one batch, the same number of batches per process, none empty.

    The number and sizes of the batches depend on the lengths, not on the order.

    Args:
        length: (N,) length of each sample; or (N, M) lengths of its M sequences: the longest counts.
        order: (N,) permutation of the samples. Samples of equal length keep this order.
        batch_size: the most samples in a batch; None: no limit.
        tokens_per_batch: the most tokens in a batch, including padding, unless the number of processes needs fewer
            batches; None: batches have about `batch_size` samples.
        world_size: number of processes, at most N.
    """
    sides = length.view(len(length), -1)
    length = sides.amax(1)
    for key in (*sides.T, length):  # the last key counts most
        order = order[key[order].argsort(stable=True)]
    if tokens_per_batch is None:
        assert batch_size is not None
        num_batches = -(-len(order) // (batch_size * world_size)) * world_size
        batches = list(order.tensor_split(min(num_batches, len(order) // world_size * world_size)))
    else:
        batches = list(order.tensor_split(_cuts(length[order].tolist(), batch_size, tokens_per_batch)))
        while len(batches) % world_size and len(batches) < len(order):
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batches[largest : largest + 1] = batches[largest].tensor_split(2)
        while len(batches) % world_size:  # every batch has one sample
            batches[-2:] = [torch.cat(batches[-2:])]
    return [batch.tolist() for batch in batches]


def _cuts(length: list[int], batch_size: int | None, tokens_per_batch: int) -> list[int]:
    """The first sample of each batch, except the first batch, for samples in the order of their lengths."""
    cuts, start = [], 0
    for i, longest in enumerate(length):
        if i > start and ((i + 1 - start) * longest > tokens_per_batch or i - start == batch_size):
            cuts.append(i)
            start = i
    return cuts


class BucketSampler:
    """A `batch_sampler`: the batches of an epoch, in an order that is a function of seed and epoch.

    Args:
        cut: a permutation of all samples -> the batches of all processes.
        num_samples: number of samples.
        start: batches of the epoch that this process has already seen.
    """

    def __init__(
        self,
        cut: Callable[[Tensor], list[list[int]]],
        num_samples: int,
        world_size: int,
        rank: int,
        seed: int,
        epoch: int,
        start: int,
    ) -> None:
        self.cut, self.num_samples, self.world_size, self.rank = cut, num_samples, world_size, rank
        self.seed, self.epoch, self.start = seed, epoch, start
        self.fixed = False  # every epoch has the batches of the first
        self.sampler = self  # Lightning calls `set_epoch` of this attribute
        self.num_batches = len(cut(torch.arange(num_samples))) // world_size

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + (0 if self.fixed else self.epoch))
        batches = self.cut(torch.randperm(self.num_samples, generator=generator))
        mixed = torch.randperm(len(batches), generator=generator)[self.rank :: self.world_size]
        return iter([batches[i] for i in mixed[self.start :].tolist()])
