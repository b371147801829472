"""Views of a split: the samples that a figure shows, and the training samples that initialise a net."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.data.base import Data
from lab.data.batches import Batch


class ShownSamples:
    """The samples of a split, row by row those of a task's outputs.

    Args:
        data: the data, already read.
        split: "train", "val" or "test".
        index: (N,) position in the split of the sample in each row.
    """

    def __init__(self, data: Data, split: str, index: Tensor) -> None:
        self.data, self.split, self.index = data, split, index

    def __getitem__(self, rows: Tensor) -> Batch:
        """The batch of these rows, as the split has it: not augmented, not normalised."""
        return self.data.splits[self.split].__getitems__(self.index[rows].tolist())

    def show(self, rows: Tensor, captions: Sequence[str], title: str) -> Any:
        """A figure, or a Markdown text, of these rows, each with its caption."""
        return self.data.show(self[rows], captions, title)


class TrainingSplit:
    """The training split as `lab.nets.base.InitFromData` takes it: `lab.nets.base.TrainingSamples`.

    Args:
        data: the data, already read.
    """

    def __init__(self, data: Data) -> None:
        self.data, self.split = data, data.splits["train"]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: Tensor) -> Batch:
        batch = {name: values.cpu() for name, values in self.split.__getitems__(index.tolist()).items()}
        levels = {name: values.double() for name, values in batch.items() if values.dtype == torch.uint8}
        return self.data.on_after_batch_transfer(batch | levels)
