"""Metrics of an epoch that are updated with the rows of many batches at once."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

MOST_BUFFERED = 2**20  # numbers, such as logits


class MetricBuffer:
    """Metrics that are updated with many small batches at once: an update costs as much as a small net.

    Args:
        metrics: each `update` has arguments named as outputs; torchmetrics passes those alone.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        self.metrics = metrics
        self.offered: list[str] = []  # the names of a step's outputs
        self.taken: list[str] = []  # those that a metric takes
        self.shapes: list[torch.Size] = []  # of a sample
        self.pending: list[list[Tensor]] = []
        self.room = MOST_BUFFERED

    def update(self, outputs: dict[str, Tensor]) -> None:
        """Keep a copy of what the metrics take: a CUDA graph writes the next outputs over these."""
        if not len(self.metrics):
            return
        if list(outputs) != self.offered:
            self.flush()
            metrics = self.metrics.values(copy_state=False)
            taken = {name for metric in metrics for name in metric._filter_kwargs(**outputs)}
            self.offered, self.taken = list(outputs), [name for name in outputs if name in taken]
        self._keep([outputs[name] for name in self.taken])

    def _keep(self, rows: list[Tensor]) -> None:
        shapes = [value.shape[1:] for value in rows]
        if shapes != self.shapes:
            self.flush()
            self.shapes = shapes
        self.pending.append([value.detach().clone() for value in rows])
        self.room -= sum(value.numel() for value in rows)
        if self.room <= 0:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            self.metrics.update(**self._rows())
        self.pending, self.room = [], MOST_BUFFERED

    def compute(self) -> dict[str, Any]:
        """The values of all batches since the last time, by name."""
        self.flush()
        values = self.metrics.compute()
        self.metrics.reset()
        return values

    def state(self) -> dict[str, Any]:
        """The rows that no metric has had, for a checkpoint.

        An earlier update would add up floats in another order: a resumed run would report another value.
        """
        return {"offered": self.offered, "rows": self._rows()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the rows of `state`."""
        self.offered, self.taken = list(state["offered"]), list(state["rows"])
        if self.taken:
            self._keep(list(state["rows"].values()))

    def _rows(self) -> dict[str, Tensor]:
        """The pending rows on the device of the metrics. The rows of a checkpoint are on the CPU."""
        device = next(iter(self.metrics.values(copy_state=False))).device if self.pending else None
        columns = (torch.cat([rows.to(device) for rows in column]) for column in zip(*self.pending, strict=True))
        return dict(zip(self.taken, columns, strict=True)) if self.pending else {}
