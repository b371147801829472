"""The base class of tasks: one step for training, validation and test, with its optimizers, metrics and figures."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine import draws
from lab.engine.config.signatures import NAMED
from lab.engine.errors import UserError
from lab.engine.training import lightning_quirks as quirks
from lab.features.base import Feature
from lab.metrics.epoch import EpochMetrics, gathered_by_process
from lab.tasks.optimizers import NamedOptimizers, build_optimizer, build_schedule, num_steps

Stage = Literal["train", "val", "test"]


@dataclass
class Step:
    """The result of a task's step.

    Args:
        loss: a scalar, the mean over the batch. The optimizer minimises it.
        parts: further scalars, each a mean over the batch as the loss is, logged as `<stage>/loss/<name>`. In a task
            with several optimizers, each optimizer minimises the part of its name, and `loss` is only logged.
        outputs: tensors with a row for each sample. Metrics, predictions and figures take them by name.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Task(L.LightningModule):
    """A net with its loss, its metrics and its optimizer. A subclass defines `step`; everything else has a default.

    `step(batch, stage)` computes the loss of a batch, differentiable in training. It runs in train mode for "train",
    and in eval mode without gradients for "val" and "test". It logs nothing and updates no metric: the base class does.
    `Step.parts` has the same names in every step of a stage. `Step.outputs` need not be detached; each row belongs to
    the sample in the same row of the batch.

    `size(batch)` is the number of terms in the mean that is the loss (and each part). Epoch means, and gradients that
    are accumulated over batches, are weighted by it. The default is the number of samples. It may be a tensor.

    `metrics` are updated with the outputs that the arguments of their `update` name. They are computed once an epoch
    over all processes, and logged as `<stage>/<name>`. An update may get the rows of several batches. A mean over
    batches is never logged: for most metrics it differs from the metric of the epoch.

    `predictions(batch, outputs)` returns the columns of `test_predictions.csv` for the rows of one test batch: under
    each name a value for each sample, and the same names for every batch. Floats are written with six digits. Columns
    may depend on the entries of the batch. `{}`: the file is not written.

    `keeps` names the outputs that `figures` takes. Only these are kept for a whole split, on the CPU, and only in runs
    that draw figures. The shape of a sample is the same in every batch. `figures(samples, outputs)` returns figures and
    Markdown texts of a split by the best weights, for "val" and "test"; row i of `outputs` belongs to row i of
    `samples`.

    `epoch_figures(epoch)` returns the same after each training epoch, in eval mode and without gradients, in process 0
    only: it must not gather. The file of a figure has the latest epoch; TensorBoard has all epochs.

    `step` and `predict_step` draw random numbers with `self.uniform` or `self.normal`. These are functions of seed,
    stage, sample and name, and in training of the epoch. Evaluation therefore gives the same values for any batch size,
    order and number of processes. Two draws in one step need two names. Other generators, such as that of dropout, are
    seeded for each batch of training and evaluation; `predict_step` must not use them.

    Args:
        net: the network; the arguments of its `forward` name the entries of a batch that it gets.
        optimizer: a function of named parameters that returns the optimizer; or one for each name of `parameters_of`.
        scheduler: a function of the optimizer that returns the schedule, which is stepped after each optimizer step. An
            argument `total_steps` is filled with the length of the run. Or one for each name of `parameters_of`.
        metrics: the metrics of each stage: "train", "val" and "test".
        seed: of the random numbers that steps draw.
    """

    keeps: ClassVar[tuple[str, ...]] = ()
    most_compared: ClassVar[int | None] = None  # test samples that prove an exported file; None: all

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Optimizer] | dict[str, Callable[..., Optimizer]],
        scheduler: Callable[..., LRScheduler] | dict[str, Callable[..., LRScheduler]],
        metrics: dict[str, MetricCollection] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler, self.seed = net, optimizer, scheduler, seed
        parameters = inspect.signature(net.forward).parameters
        self.arguments = list(parameters)
        self.required = [name for name, p in parameters.items() if p.kind in NAMED and p.default is p.empty]
        self.metrics = EpochMetrics({s: (metrics or {}).get(s) or MetricCollection({}) for s in get_args(Stage)})
        self.optimizer_state: Any = None  # the state with which the optimizer starts
        self.step_losses: dict[str, Tensor] = {}  # the parts of the latest step, for several optimizers
        self.weight: Any = None  # of the next loss, if gradients are accumulated over several batches

    def parameters_of(self) -> dict[str, Iterable[tuple[str, nn.Parameter]]]:
        """The (name, parameter) pairs of each optimizer, by the optimizer's name. A single optimizer has the name "".

        Each trained parameter belongs to one optimizer. With several optimizers, `optimizer` and `scheduler` in the
        config are one `_target_` for all or a mapping of these names, and `Step.parts` has the loss of each. Its
        gradient reaches the parameters of its optimizer only. All gradients are computed at the same weights; then all
        optimizers step.
        """
        return {"": ((name, p) for name, p in self.named_parameters() if p.requires_grad)}

    def build_optimizer(self) -> Optimizer:
        """Return a new optimizer of all parameters. Several optimizers are combined into one, with one state."""
        return build_optimizer(self.optimizer, self.parameters_of(), self)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        quirks.keep_memory_format(optimizer)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(optimizer.state_dict() | {"state": self.optimizer_state})
        schedule = build_schedule(self.scheduler, optimizer, self.parameters_of(), lambda: num_steps(self.trainer))
        name = {"name": "lr"} if isinstance(optimizer, NamedOptimizers) else {}  # of the curves, such as lr/generator
        return [optimizer], [{"scheduler": schedule, "interval": "step"} | name]

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Step:
        """Return the loss of a batch, its parts, and the outputs."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the output of the net for a batch.

        Raises:
            UserError: the batch lacks an argument of the net's `forward` that has no default.
        """
        if missing := [name for name in self.required if name not in batch]:
            raise UserError(
                f"error: net: {missing[0]} is an argument of forward, but not an entry of the batch. The entries are"
                f" {', '.join(batch)}. Rename the argument, or give it a default."
            )
        return self.net(**{name: batch[name] for name in self.arguments if name in batch})

    def size(self, batch: Batch) -> Any:
        """The number of terms that the loss of a batch is the mean of."""
        return len(batch["index"])

    def uniform(self, batch: Batch, stage: str, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) numbers in [0, 1). A sample gets the same numbers in every batch."""
        return draws.uniform(self._key(stage, name), batch["index"], *shape)

    def normal(self, batch: Batch, stage: str, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) normal numbers of mean 0 and variance 1. A sample gets the same numbers in every batch."""
        return draws.normal(self._key(stage, name), batch["index"], *shape)

    def _key(self, stage: str, name: str) -> str:
        epoch = f" {self.current_epoch}" if stage == "train" else ""
        return f"{self.seed} {stage}{epoch} {name}"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self._step(batch, "train")
        loss, self.step_losses = step.loss, step.parts
        if quirks.is_logging_step(self.trainer):
            self.log("loss", loss.detach(), prog_bar=True)
        return loss if self.weight is None else loss * self.weight

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients; with several optimizers, of each optimizer's loss for its parameters only.

        `trainer.gradient_clip_val` clips the gradient of all parameters together, not of each optimizer.
        """
        optimizer, losses = self.trainer.optimizers[0], self.step_losses
        self.step_losses = {}  # keeping them would keep the graph in memory
        if not isinstance(optimizer, NamedOptimizers):
            return super().backward(loss, *args, **kwargs)
        optimizer.backward(losses, (1.0 if self.weight is None else self.weight) / self.trainer.accumulate_grad_batches)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "val").outputs  # for callbacks

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "test").outputs  # for callbacks

    def _step(self, batch: Batch, stage: Stage) -> Step:
        step = self.step(batch, stage)
        self.metrics.update(stage, step.loss, step.parts, self.size(batch), step.outputs)
        return step

    def on_train_epoch_end(self) -> None:
        self._log("train")

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _log(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self.metrics.compute(stage).items()}
        self.log_dict(values, prog_bar=stage == "val")

    def epoch_figures(self, epoch: int) -> dict[str, Any]:
        """Figures, and Markdown texts, after a training epoch."""
        return {}

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        """The columns of `test_predictions.csv` for one batch."""
        return {}

    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Figures, and Markdown texts, of a split, from the outputs that `keeps` names."""
        return {}

    @property
    def input_entries(self) -> Sequence[str]:
        """The entries of a batch that `predict_step` reads. With `index`, random numbers depend on the sample."""
        return self.arguments

    @property
    def settings(self) -> dict[str, Feature]:
        """The inputs of `predict_step` that the data does not have, by name, such as the number of steps of a sampler.

        Each has a default: `Feature.default`. They are entries of the batch.
        """
        return {}

    @property
    def outputs(self) -> dict[str, Feature]:
        """The features that `predict_step` returns, by the name that people see; empty: the task predicts nothing.

        `predict_step(batch, batch_idx)` returns a dict with the entries of all features, a row for each sample.
        """
        return {}

    def explained_net(self) -> nn.Module:
        """The net that `lab explain` explains: one entry of a batch -> (B, K) logits of `Feature.explained`."""
        return self.net

    def explained_probability(self, logits: Tensor) -> Tensor:
        """(B, K) logits of `explained_net` -> (B, K) probabilities."""
        return logits.softmax(-1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the epoch in each process: a run can be resumed in the middle of an epoch."""
        checkpoint["epoch_so_far"] = gathered_by_process(self.metrics.training_state(), self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        quirks.forget_schedule_length(checkpoint["lr_schedulers"])  # the config may have changed the length
        self.metrics.restore_training(checkpoint["epoch_so_far"], self.trainer.global_rank, self.trainer.world_size)
