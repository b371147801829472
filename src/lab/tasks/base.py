"""The base class of tasks: one step for three stages, metrics, optimizers and schedules, repeatable draws."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from lab.data.base import Batch, Samples
from lab.engine import draws
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import (
    forget_schedule_length,
    is_logging_step,
    mean_metric,
    without_shared_state,
)
from lab.features.base import Feature
from lab.metrics.buffer import MetricBuffer
from lab.tasks.optimizers import NamedOptimizers, build_optimizer, build_schedule

Stage = Literal["train", "val", "test"]


@dataclass
class Step:
    """The result of a task's step.

    Args:
        loss: a scalar, the mean over the batch. It is what the optimizer minimises.
        parts: further scalars, each a mean over the batch as the loss is, logged as `<stage>/loss/<name>`. Where a task
            has several optimizers, each minimises the part of its name, and `loss` is only reported.
        outputs: tensors with a row for each sample. Metrics, predictions and figures take those that they name.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Task(L.LightningModule):
    """A net with its loss, its metrics and its optimizer. A subclass defines `step`; the rest has a default.

    A batch is a dict of tensors with a row for each sample. Its entry `index` (B,) says which samples of the split
    these are.

    `step(batch, stage)` computes the loss of a batch, differentiable in training. It runs in train mode for "train",
    and in eval mode without gradients for "val" and "test". It logs nothing and updates no metric: the base class does.
    `Step.parts` has the same names in every step of a stage. `Step.outputs` need not be detached; a row belongs to the
    sample in the same row of the batch.

    `size(batch)` is the number of terms that the loss and its parts are the mean of. Epoch means and gradients that are
    accumulated over batches are weighted by it. It is the number of samples by default, and may be a tensor.

    `metrics` are updated with the outputs that the arguments of their `update` name, and computed once an epoch over
    all processes, as `<stage>/<name>`. A metric gets the rows of several batches at once. No mean of batches is logged:
    for most metrics it is not the metric of the epoch.

    `predictions(batch, outputs)` gives the columns of `test_predictions.csv` for the rows of one test batch: a value
    for each sample under each name, the same names for every batch. A float is written with six digits. Columns may
    depend on the entries of the batch. `{}`: there is no file.

    `keeps` names the outputs that `figures` takes. They alone are held for a split, on the CPU, and only in runs that
    draw; a sample's shape is the same in every batch. `figures(samples, **kept)` gives figures, and texts in Markdown,
    of a split by the best weights, for "val" and "test"; `samples` has the same order as the kept rows.

    `epoch_figures(epoch)` gives the same after each training epoch, in eval mode and without gradients, on process 0
    alone: it must not gather. The file of a figure has the latest epoch; TensorBoard has all.

    A step, and `predict_step`, draws random numbers with `self.uniform` or `self.normal`; they are functions of seed,
    stage, sample and name, and in training of the epoch. Evaluation therefore gives the same values with any batch
    size, order and number of processes. Two draws of one step need two names. Other generators, such as dropout's, are
    seeded for each batch of training and evaluation; `predict_step` must not use them.

    Args:
        net: what is trained; the names of its `forward`'s arguments say which entries of a batch it gets.
        optimizer: named parameters -> optimizer; or such a factory for each name of `parameters_of`.
        scheduler: optimizer -> schedule, stepped with it; a `total_steps` argument is filled with the run's length. Or
            such a factory for each name.
        metrics: what to report beside the loss, for "train", "val" and "test".
        seed: of what steps draw.
    """

    keeps: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Optimizer] | dict[str, Callable[..., Optimizer]],
        scheduler: Callable[..., LRScheduler] | dict[str, Callable[..., LRScheduler]],
        metrics: dict[str, MetricCollection] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        metrics = {
            stage: without_shared_state((metrics or {}).get(stage) or MetricCollection({})) for stage in get_args(Stage)
        }
        self.net, self.optimizer, self.scheduler, self.seed = net, optimizer, scheduler, seed
        self.arguments = list(inspect.signature(net.forward).parameters)
        self.optimizer_state: Any = None  # to start with
        self.step_losses: dict[str, Tensor] = {}  # the parts of the latest one; several optimizers minimise them
        self.weight: Any = None  # of the next loss, where gradients of several batches are gathered
        # of a stage so far: the loss and its parts, each multiplied by its size and summed; and the sizes' sum
        self.sums: dict[str, tuple[dict[str, Any], Any]] = {}
        # `train` is a method of ModuleDict: hence the underscores
        self.means = nn.ModuleDict({f"{stage}_": mean_metric() for stage in metrics})
        self.metrics = nn.ModuleDict({f"{stage}_": collection for stage, collection in metrics.items()})
        self.metric_buffers = {stage: MetricBuffer(collection) for stage, collection in metrics.items()}

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Step:
        """The loss of a batch, its parts, and the outputs."""

    def forward(self, batch: Batch) -> Tensor:
        """What the net makes of a batch."""
        return self.net(**{name: batch[name] for name in self.arguments if name in batch})

    def size(self, batch: Batch) -> Any:
        """The number of terms that the batch's loss is the mean of."""
        return len(batch["index"])

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        """The columns of `test_predictions.csv` for one batch."""
        return {}

    def figures(self, samples: Samples, *args: Any, **kept: Any) -> dict[str, Any]:
        """Figures, and texts in Markdown, of a split, from the outputs that `keeps` names."""
        return {}

    def epoch_figures(self, epoch: int) -> dict[str, Any]:
        """Figures, and texts in Markdown, after a training epoch."""
        return {}

    def uniform(self, batch: Batch, stage: str, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) numbers in [0, 1). A sample's numbers are the same in every batch."""
        return draws.uniform(self._key(stage, name), batch["index"], *shape)

    def normal(self, batch: Batch, stage: str, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) normal numbers of mean 0 and variance 1. A sample's numbers are the same in every batch."""
        return draws.normal(self._key(stage, name), batch["index"], *shape)

    def _key(self, stage: str, name: str) -> str:
        epoch = f" {self.current_epoch}" if stage == "train" else ""
        return f"{self.seed} {stage}{epoch} {name}"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self._step(batch, "train")
        loss, self.step_losses = step.loss, step.parts
        if is_logging_step(self.trainer):
            self.log("loss", loss.detach(), prog_bar=True)
        return loss if self.weight is None else loss * self.weight

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The step's outputs, for the callbacks."""
        return self._step(batch, "val").outputs

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The step's outputs, for the callbacks."""
        return self._step(batch, "test").outputs

    @property
    def input_entries(self) -> Sequence[str]:
        """The entries of a batch that `predict_step` reads; with `index`, what it draws depends on the sample."""
        return self.arguments

    @property
    def outputs(self) -> dict[str, Feature]:
        """The features that `predict_step` returns, by the name that people see; empty: there is nothing to predict.

        `predict_step(batch, batch_idx)` returns a dict with the entries of all of them, a row for each sample.
        """
        return {}

    def on_train_epoch_end(self) -> None:
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def parameters_of(self) -> dict[str, Iterable[tuple[str, nn.Parameter]]]:
        """The (name, parameter) pairs of each optimizer, by the optimizer's name; most tasks have one, without a name.

        Each parameter that is trained belongs to one optimizer. Where there are several, the config's `optimizer` and
        `scheduler` are one `_target_` for all or a mapping of these names, and `Step.parts` has the loss of each, whose
        gradient reaches that optimizer's parameters alone. All gradients are taken at the same weights; then all step.
        """
        return {"": ((name, p) for name, p in self.named_parameters() if p.requires_grad)}

    def build_optimizer(self) -> Optimizer:
        """A fresh optimizer of all parameters: several are one, with one state."""
        return build_optimizer(self.optimizer, self.parameters_of(), self)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss; where there are several optimizers, the loss of each by its parameters alone.

        `trainer.gradient_clip_val` clips the gradient of all parameters together, not each optimizer's.
        """
        optimizer, losses = self.trainer.optimizers[0], self.step_losses
        self.step_losses = {}  # they would keep the graph
        if not isinstance(optimizer, NamedOptimizers):
            return super().backward(loss, *args, **kwargs)
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
        """Add an epoch's sums so far, of each process, so that a run can be resumed in the middle of the epoch."""
        metrics: Any = self.metrics["train_"]
        metrics.persistent(True)
        own = {
            "sums": self.sums.get("train"),
            "metrics": metrics.state_dict(),
            "pending": self.metric_buffers["train"].state(),
        }
        metrics.persistent(False)
        every: list[Any] = [own]
        if self.trainer.world_size > 1:
            every = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, own)
        checkpoint["epoch_so_far"] = every

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        forget_schedule_length(checkpoint["lr_schedulers"])  # the config may have changed the run's length
        every = checkpoint["epoch_so_far"]
        if len(every) != self.trainer.world_size:
            return
        own = every[self.trainer.global_rank]
        if own["sums"] is not None:
            self.sums["train"] = own["sums"]
            self.metrics["train_"].load_state_dict(own["metrics"])
            self.metric_buffers["train"].restore(own["pending"])

    def _step(self, batch: Batch, stage: Stage) -> Step:
        step = self.step(batch, stage)
        self.metric_buffers[stage].update(step.outputs)
        scalars = {"loss": step.loss} | step.parts
        totals, num = self.sums.get(stage, ({}, 0))
        if "loss" in step.parts:
            raise ValueError("step: a part cannot be named loss")
        if totals and totals.keys() != scalars.keys():
            names = f"got {list(step.parts)}, before {list(totals)[1:]}"
            raise ValueError(f"step: parts must have the same names in every step of a stage; {stage}: {names}")
        size = self.size(batch)
        sums = {name: totals.get(name, 0.0) + value.detach().float() * size for name, value in scalars.items()}
        self.sums[stage] = sums, num + size
        return step

    def _log(self, stage: str) -> None:
        if stage not in self.sums:
            return
        mean, values = cast(MeanMetric, self.means[f"{stage}_"]), {}
        totals, num = self.sums.pop(stage)
        for name, total in totals.items():
            mean.update(total / num, weight=num)
            values[name if name == "loss" else f"loss/{name}"] = mean.compute()
            mean.reset()
        values |= self.metric_buffers[stage].compute()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=stage == "val")
