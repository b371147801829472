"""Batches of samples, and the data sets that return whole batches."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = dict[str, Tensor]
"""The samples of a step by entry, such as `image`. Each entry is a tensor with a row for each sample.

* Every batch has `index` (B,) int64: the position of each sample in its split. Evaluation, augmentation and predictions
  rely on it.
* A `Feature` names its entries. A batch may have other entries, such as a reference that only a metric takes.
* Samples of different length are padded with zeros to the longest of the batch. A net must be able to recognise the
  padding: token 0 is padding, other features have an entry with the lengths, labels of padding are -1.
* A batch has no lists and needs no collation. It can therefore be sharded, exported and stored.
"""


class Batches(Dataset[Batch]):
    """A data set that returns a whole batch for a list of indices, in one indexing call."""

    length: Tensor | None = None  # (N,) or (N, M) lengths of samples that differ in length: see `buckets`

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch: ...

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> Self: ...

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


class Tensors(Batches):
    """Samples in memory, or on a GPU.

    Args:
        tensors: the entries, such as `image` and `label`. The first dimension of each is the number of samples.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices).to(next(iter(self.tensors.values())).device, non_blocking=True)
        return {name: values.index_select(0, index) for name, values in self.tensors.items()} | {"index": index}

    def subset(self, indices: Sequence[int]) -> Self:
        index = torch.as_tensor(indices)
        return type(self)(**{name: values[index] for name, values in self.tensors.items()})

    def to(self, device: torch.device) -> Self:
        self.tensors = {name: values.to(device) for name, values in self.tensors.items()}
        return self


def no_collate(batch: Any) -> Batch:
    """Return the batch unchanged: the `collate_fn` for data sets that return batches."""
    return batch
