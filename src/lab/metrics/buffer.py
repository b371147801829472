"""A buffer that updates metrics with the rows of many batches at once."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lab.engine.training.lightning_quirks import taken_by

MOST_BUFFERED = 2**20  # numbers, such as logits


class MetricBuffer:
    """Metrics that are updated with many batches at once: one update takes as long as a small net.

    Args:
        metrics: the arguments of each `update` are names of outputs; torchmetrics passes only these.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        self.metrics = metrics
        self.offered: list[str] = []  # the names of the outputs of a step
        self.taken: list[str] = []  # the names that a metric takes
        self.shapes: list[torch.Size] = []  # of a sample
        self.pending: list[list[Tensor]] = []
        self.room = MOST_BUFFERED

    def update(self, outputs: dict[str, Tensor]) -> None:
        """Keep a copy of the outputs that the metrics take: a CUDA graph overwrites its outputs in the next call."""
        if not len(self.metrics):
            return
        if list(outputs) != self.offered:
            self.flush()
            metrics = self.metrics.values(copy_state=False)
            taken = {name for metric in metrics for name in taken_by(metric, outputs)}
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
        """Return the values over all batches since the last call, by name."""
        self.flush()
        values = self.metrics.compute()
        self.metrics.reset()
        return values

    def state(self) -> dict[str, Any]:
        """The pending rows, for a checkpoint.

        An update now would sum floats in a different order: a resumed run would report a different value.
        """
        return {"offered": self.offered, "rows": self._rows()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the pending rows of a `state`."""
        self.offered, self.taken = list(state["offered"]), list(state["rows"])
        if self.taken:
            self._keep(list(state["rows"].values()))

    def _rows(self) -> dict[str, Tensor]:
        """The pending rows on the device of the metrics. The rows of a checkpoint are on the CPU."""
        device = next(iter(self.metrics.values(copy_state=False))).device if self.pending else None
        columns = (torch.cat([rows.to(device) for rows in column]) for column in zip(*self.pending, strict=True))
        return dict(zip(self.taken, columns, strict=True)) if self.pending else {}
