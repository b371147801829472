"""Which samples a process gets, and in which batches."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """The order of an epoch, a function of seed and epoch; a resumed epoch begins where it stopped.

    Args:
        start: samples of the epoch that this process has had.
    """

    def __init__(self, dataset: Dataset[Any], world_size: int, rank: int, seed: int, epoch: int, start: int) -> None:
        super().__init__(dataset, world_size, rank, seed=seed, drop_last=True)
        self.epoch, self.start = epoch, start

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Any]:
        return islice(super().__iter__(), self.start, None)


def shard(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """The batches of one of `world_size` processes: as many for each, none empty, every sample exactly once.

    Where the last samples would be a batch for some processes alone, batches have one sample more than `batch_size`.
    """
    num_batches = min(-(-num_samples // (batch_size * world_size)), num_samples // world_size)
    mine = torch.arange(rank, num_samples, world_size)
    return [batch.tolist() for batch in mine.tensor_split(num_batches)]
