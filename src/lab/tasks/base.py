"""What every task shares: one step for three stages, one optimizer, one schedule."""

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from lab.data.base import Samples
from lab.errors import UserError
from lab.optimizers import NamedOptimizers, build_optimizer, build_schedule
from lab.outputs.base import Outputs

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
        optimizer: named parameters -> optimizer; or such a factory for each name of `parameters_of`.
        scheduler: optimizer -> schedule, stepped with it; a `total_steps` argument is filled with the run's length. Or
            such a factory for each name.
        metrics: what to report beside the loss, for "train", "val" and "test".
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Optimizer] | dict[str, Callable[..., Optimizer]],
        scheduler: Callable[..., LRScheduler] | dict[str, Callable[..., LRScheduler]],
        metrics: dict[str, MetricCollection],
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.inputs = list(inspect.signature(net.forward).parameters)
        self.optimizer_state: Any = None  # to start with
        self.step_losses: dict[str, Tensor] = {}  # of the latest step, by the names of several optimizers
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
        return self.net(**{name: batch[name] for name in self.inputs if name in batch})

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
    def outputs(self) -> Outputs | None:
        """How the answers of `predict_step` are read, where they are no probabilities of classes."""
        return None

    def on_train_epoch_end(self) -> None:
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def parameters_of(self) -> dict[str, Iterable[tuple[str, nn.Parameter]]]:
        """The (name, parameter) pairs of each optimizer, by the optimizer's name; most tasks have one, without a name.

        Each parameter that is trained belongs to one optimizer. Where there are several, the config's `optimizer` and
        `scheduler` are one `_target_` for all or a mapping of these names, and each step gives a loss for each name.
        """
        return {"": ((name, p) for name, p in self.named_parameters() if p.requires_grad)}

    def build_optimizer(self) -> Optimizer:
        """A fresh optimizer of all parameters: several are one, with one state."""
        return build_optimizer(self.optimizer, self.parameters_of(), self)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss; where there are several optimizers, each one's own by its own parameters alone.

        All gradients are taken at the same weights, before any optimizer steps. `trainer.gradient_clip_val` clips the
        gradient of all parameters together, not each optimizer's.
        """
        optimizer = self.trainer.optimizers[0]
        if not isinstance(optimizer, NamedOptimizers):
            return super().backward(loss, *args, **kwargs)
        losses, self.step_losses = self.step_losses, {}  # which would keep the graph
        optimizer.backward(losses, (1.0 if self.weight is None else self.weight) / self.trainer.accumulate_grad_batches)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        if self.optimizer_state is not None:
            optimizer.load_state_dict(optimizer.state_dict() | {"state": self.optimizer_state})
        schedule = build_schedule(self.scheduler, optimizer, self.parameters_of().keys(), self._total_steps)
        name = {"name": "lr"} if isinstance(optimizer, NamedOptimizers) else {}  # of curves: lr/generator
        return [optimizer], [{"scheduler": schedule, "interval": "step"} | name]

    def _total_steps(self) -> int:
        steps = max(1, self.trainer.estimated_stepping_batches)  # 0: it is only tested
        if steps == float("inf"):
            raise UserError("error: scheduler: it needs an end; set trainer.max_epochs or max_steps.")
        return int(steps)

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
            for state in (schedule, *schedule.get("parts", {}).values()):
                state.pop("total_steps", None)
                state.pop("_schedule_phases", None)
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
