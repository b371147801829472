"""The order of a split's samples, and the batches of each process."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from lab.data.batches import Batches
from lab.data.buckets import BucketSampler, buckets


def training_sampler(
    split: Batches,
    batch_size: int,
    tokens_per_batch: int | None,
    rank: int,
    world_size: int,
    seed: int,
    position: tuple[int, int],
    is_fixed: bool,
) -> dict[str, Any]:
    """The arguments of a `DataLoader` that give the training batches of one process.

    Args:
        split: the training samples.
        batch_size: samples in a batch.
        tokens_per_batch: tokens in a batch, in place of `batch_size`; only for samples that differ in length.
        rank: the process, of `world_size`.
        world_size: number of processes.
        seed: of the order.
        position: the epoch in which training starts, and the number of its batches that are already done.
        is_fixed: every epoch has the batches of the first (`trainer.overfit_batches`).
    """
    epoch, num_batches = position
    if split.length is None:
        sampler = EpochSampler(split, world_size, rank, seed, epoch, num_batches * batch_size)
        drop_last = len(sampler) >= batch_size  # a last batch of one sample would break batch norm
        return {"batch_size": batch_size, "sampler": sampler, "drop_last": drop_last}
    size = None if tokens_per_batch else batch_size
    cut = partial(buckets, split.length, batch_size=size, tokens_per_batch=tokens_per_batch, world_size=world_size)
    batches = BucketSampler(cut, len(split), world_size, rank, seed, epoch, num_batches)
    batches.fixed = is_fixed  # Lightning fixes the order of a `sampler`, not that of a `batch_sampler`
    return {"batch_sampler": batches}


def evaluation_batches(
    split: Batches, batch_size: int, tokens_per_batch: int | None, rank: int, world_size: int
) -> list[list[int]]:
    """The evaluation batches of one process, as lists of sample indices.

    Args:
        split: the samples.
        batch_size: samples in a batch. Batches of long samples have fewer of them, and so less padding.
        tokens_per_batch: tokens in a batch, in place of `batch_size`; only for samples that differ in length.
        rank: the process, of `world_size`.
        world_size: number of processes.
    """
    num_samples, length = len(split), split.length
    if length is None:
        return shard(num_samples, batch_size, rank, world_size)
    mean_length = length.view(num_samples, -1).amax(1).float().mean()
    tokens = tokens_per_batch or int(batch_size * mean_length)
    cut = buckets(length, torch.arange(num_samples), None if tokens_per_batch else batch_size, tokens, world_size)
    mixed = torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))  # the first few have all lengths
    return [cut[i] for i in mixed.tolist()[rank::world_size]]


class EpochSampler(DistributedSampler[Any]):
    """The order of an epoch, a function of seed and epoch. A resumed epoch starts where it stopped.

    Args:
        start: samples of the epoch that this process has already seen.
    """

    def __init__(self, dataset: Batches, world_size: int, rank: int, seed: int, epoch: int, start: int) -> None:
        super().__init__(dataset, world_size, rank, seed=seed, drop_last=True)
        self.epoch, self.start = epoch, start

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Any]:
        return islice(super().__iter__(), self.start, None)


def shard(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """The batches of one process: the same number for each process, none empty, every sample in exactly one.

    If the last samples would give a batch to some processes only, batches have one sample more than `batch_size`.
    """
    num_batches = min(-(-num_samples // (batch_size * world_size)), num_samples // world_size)
    indices = torch.arange(rank, num_samples, world_size)
    return [batch.tolist() for batch in indices.tensor_split(num_batches)]
