"""`test_predictions.csv`: a row for each test sample, written batch by batch."""

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from lab.callbacks.shared import data_of, forgiven, gathered, task_of
from lab.data.batches import Batch
from lab.engine.display import csv_cell
from lab.engine.files import atomic_write
from lab.engine.folder import PREDICTIONS
from lab.tasks.base import Task


class PredictionWriter(Callback):
    """Writes the columns of `Task.predictions` for each test sample, in the order of the samples.

    Process 0 writes the rows of all processes after each batch, so that no process holds all rows of a split.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PREDICTIONS
        self.table: SortedTable | None = None
        self.columns: list[str] | None = None  # None: no batch has been seen
        self.failed = False

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.columns, self.failed = None, False

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, *_: Any) -> None:
        task = task_of(module)
        if type(task).predictions is Task.predictions:
            return
        columns = task.predictions(batch, outputs)
        if self.columns is None:
            self.columns = list(columns)
        if list(columns) != self.columns:
            raise ValueError(f"predictions: the columns are {list(columns)}, and those before {self.columns}")
        if not columns:
            return
        index, data = batch["index"].tolist(), data_of(trainer)
        names = data.names.get("test") or range(len(data.splits["test"]))
        rows = encoded(zip([names[i] for i in index], *columns.values(), strict=True))
        every = gathered(trainer, (index, rows))
        if trainer.is_global_zero and not self.failed:
            self.write(every)

    def write(self, every: list[tuple[list[int], list[bytes]]]) -> None:
        self.failed = True
        with forgiven(self.path.parent):
            if self.table is None:
                (head,) = encoded([["sample", *(self.columns or ())]])
                self.table = SortedTable(self.path, head)
            for index, rows in every:
                self.table.write(index, rows)
            self.failed = False
        if self.failed:
            self._drop()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.table is not None:
            with forgiven(self.path.parent):
                self.table.finish()
        self._drop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._drop()

    def _drop(self) -> None:
        if self.table is not None:
            with suppress(OSError):  # a full disk is reported already
                self.table.close()
            self.table = None


class SortedTable:
    """Writes rows that arrive in any order to a text file sorted by row number.

    Memory holds a number and a place for each row. The rows wait in a temporary file beside the table.

    Args:
        path: of the file, which `finish` makes or replaces.
        head: its first line.
    """

    def __init__(self, path: Path, head: bytes) -> None:
        self.path, self.head = path, head
        self.index, self.end = array("q"), array("q", [len(head)])  # of a row: its number, the place after it
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.rows.tmp")
        self.temporary.unlink(missing_ok=True)
        self.file = open(self.temporary, "x+b")  # noqa: SIM115 (it stays open from batch to batch)

    def write(self, index: Sequence[int], rows: Sequence[bytes]) -> None:
        if not self.index:
            self.file.write(self.head)
        for number, row in zip(index, rows, strict=True):
            self.file.write(row)
            self.index.append(number)
            self.end.append(self.end[-1] + len(row))

    def finish(self) -> None:
        self.file.flush()
        index, end = np.array(self.index), np.array(self.end)
        if (index[1:] > index[:-1]).all():
            os.replace(self.temporary, self.path)
            return
        with atomic_write(self.path) as temporary, open(temporary, "xb") as file:
            file.write(self.head)
            for i in index.argsort(kind="stable").tolist():
                self.file.seek(end[i])
                file.write(self.file.read(end[i + 1] - end[i]))

    def close(self) -> None:
        """Remove what is left of the temporary file."""
        self.temporary.unlink(missing_ok=True)
        self.file.close()


def encoded(rows: Iterator[Sequence[Any]] | list[list[str]]) -> list[bytes]:
    """Each row as a line of CSV."""
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append)).writerows([_cell(value) for value in row] for row in rows)
    return [line.encode(errors="surrogateescape") for line in lines]


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else csv_cell(value) if isinstance(value, str) else value
