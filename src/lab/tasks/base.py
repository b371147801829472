"""What every task shares: one step for three stages, one optimizer, one schedule."""

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from lab.data.base import Samples
from lab.errors import UserError
from lab.features.base import Feature

MOST_DEFERRED = 2**20  # numbers, such as logits


class Deferred:
    """Metrics that are updated with many small batches at once: an update costs as much as a small net.

    Args:
        metrics: whose `update` takes tensors with a row for each sample.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        self.metrics = metrics
        self.pending: list[tuple[Tensor, ...]] = []
        self.latest: tuple[Tensor, ...] = ()
        self.room = MOST_DEFERRED

    def update(self, *tensors: Tensor) -> None:
        self.latest = tensors
        if self.pending and [t.shape[1:] for t in tensors] != [t.shape[1:] for t in self.pending[0]]:
            self.flush()
        self.pending.append(tensors)
        self.room -= tensors[0].numel()
        if self.room <= 0:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            self.metrics.update(*map(torch.cat, zip(*self.pending, strict=True)))
        self.pending, self.room = [], MOST_DEFERRED

    def compute(self) -> dict[str, Any]:
        """The values of all batches since the last time, by name."""
        self.flush()
        values = self.metrics.compute()
        self.metrics.reset()
        return values


class Task(L.LightningModule):
    """A net with its loss, its metrics and its optimizer. A subclass defines `step`.

    Metrics are updated with every batch and computed once an epoch, over all processes, as `<stage>/<name>`; the mean
    loss over samples, or whatever `size` counts, is one of them.

    Args:
        net: what is trained; the names of its `forward`'s arguments say which entries of a batch it gets.
        optimizer: named parameters -> optimizer.
        scheduler: optimizer -> schedule, stepped with it; a `total_steps` argument is filled with the run's length.
        metrics: what to report beside the loss, for "train", "val" and "test".
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        metrics: dict[str, MetricCollection],
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.arguments = list(inspect.signature(net.forward).parameters)
        self.optimizer_state: Any = None  # to start with
        self.weight: Any = None  # of the next loss, where gradients of several batches are gathered
        # torchmetrics drops a NaN unless told to keep it; its "disable" would also drop the weights (1.9)
        # `train` is a method of ModuleDict: hence the underscores
        self.sums: dict[str, tuple[Any, int]] = {}  # of a stage's losses, and its samples, so far
        self.losses = nn.ModuleDict({f"{stage}_": MeanMetric(nan_strategy=math.nan) for stage in metrics})
        self.metrics = nn.ModuleDict({f"{stage}_": collection for stage, collection in metrics.items()})
        self.deferred = {stage: Deferred(collection) for stage, collection in metrics.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning sets it 30 times a step, and Module looks for a parameter each time
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def step(self, batch: dict[str, Tensor], metrics: Deferred) -> Tensor:
        """Update `metrics` with a batch, and return its mean loss."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """What the net makes of a batch."""
        return self.net(**{name: batch[name] for name in self.arguments if name in batch})

    def size(self, batch: dict[str, Tensor]) -> Any:
        """Of how many losses that of a batch is the mean: a sample has one."""
        return len(next(iter(batch.values())))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._step(batch, "train")
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        step = self.global_step
        if every and (step == 0 or (step + 1) % every == 0):  # else loggers drop it, half a millisecond later
            self.log("loss", loss.detach(), prog_bar=True)
        return loss if self.weight is None else loss * self.weight

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        """What the metrics were given, for the callbacks."""
        self._step(batch, "val")
        return self.deferred["val"].latest

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The same."""
        self._step(batch, "test")
        return self.deferred["test"].latest

    def predictions(self, *tensors: Tensor) -> dict[str, Sequence[Any]]:
        """The columns of `test_predictions.csv`, from what `step` gave the metrics; none: there is no file."""
        return {}

    def figures(self, samples: Samples, *tensors: Tensor) -> dict[str, Any]:
        """Figures, and texts in Markdown, of a split: from what `step` gave the metrics, and its samples."""
        return {}

    @property
    def inputs(self) -> Sequence[str]:
        """The entries of a batch that `predict_step` reads; with `index`, what it draws depends on the sample."""
        return self.arguments

    @property
    def outputs(self) -> dict[str, Feature]:
        """What `predict_step` gives, by the name that people see; none: there is nothing to predict.

        `predict_step(batch, batch_idx)` returns a dict with the entries of all of them, a row for each sample.
        """
        return {}

    def on_train_epoch_end(self) -> None:
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer((name, p) for name, p in self.named_parameters() if p.requires_grad)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(optimizer.state_dict() | {"state": self.optimizer_state})
        length = {}
        if "total_steps" in inspect.signature(self.scheduler).parameters:
            length["total_steps"] = steps = max(1, self.trainer.estimated_stepping_batches)  # 0: it is only tested
            if steps == float("inf"):
                raise UserError("error: scheduler: it needs an end; set trainer.max_epochs or max_steps.")
        return [optimizer], [{"scheduler": self.scheduler(optimizer, **length), "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """An epoch's sums so far, each process's own, so that its metrics are whole where a run goes on in it."""
        self.deferred["train"].flush()
        metrics: Any = self.metrics["train_"]
        metrics.persistent(True)
        own = {"sums": self.sums.get("train"), "metrics": metrics.state_dict()}
        metrics.persistent(False)
        every: list[Any] = [own]
        if self.trainer.world_size > 1:
            every = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, own)
        checkpoint["epoch_so_far"] = every

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for schedule in checkpoint["lr_schedulers"]:  # its length is that of the run, which may have changed
            schedule.pop("total_steps", None)
            schedule.pop("_schedule_phases", None)
        every = checkpoint["epoch_so_far"]
        if len(every) != self.trainer.world_size:
            return
        own = every[self.trainer.global_rank]
        if own["sums"] is not None:
            self.sums["train"] = own["sums"]
            self.metrics["train_"].load_state_dict(own["metrics"])

    def _step(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        loss = self.step(batch, self.deferred[stage])
        total, num = self.sums.get(stage, (0.0, 0))
        size = self.size(batch)
        self.sums[stage] = total + loss.detach() * size, num + size
        return loss

    def _log(self, stage: str) -> None:
        if stage not in self.sums:
            return
        loss = self.losses[f"{stage}_"]
        total, num = self.sums.pop(stage)
        loss.update(total / num, weight=num)  # type: ignore[operator]
        values = {"loss": loss.compute()} | self.deferred[stage].compute()  # type: ignore[operator]
        loss.reset()  # type: ignore[operator]
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=stage == "val")
