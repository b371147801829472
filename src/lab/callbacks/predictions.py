import csv
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from lab.data.base import Batch, Data
from lab.folder import PREDICTIONS
from lab.tasks.base import Task


class Predictions(Callback):
    """Writes `predictions.csv`: what the best weights made of each test sample.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PREDICTIONS

    def on_test_start(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        self.outputs: list[tuple[Tensor, ...]] = []

    def on_test_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Batch, *_: Any) -> None:  # type: ignore[override]
        self.outputs.append((batch["index"].cpu(), *(tensor.cpu() for tensor in outputs)))

    def on_test_end(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        every: list[Any] = [self.outputs]
        if trainer.world_size > 1:
            every = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, self.outputs)
        batches = [batch for outputs in every for batch in outputs]
        index, *tensors = map(torch.cat, zip(*batches, strict=True))
        order = index.argsort()
        columns = task.predictions(*(tensor[order] for tensor in tensors))
        data: Data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and columns:
            names = data.names.get("test") or range(len(index))
            rows = zip([names[i] for i in index[order].tolist()], *columns.values(), strict=True)
            with open(self.path, "w", newline="") as file:
                csv.writer(file).writerow(["sample", *columns])
                csv.writer(file).writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
