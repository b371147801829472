import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lab.engine.errors import RunError, UserError, unknown
from lab.engine.runs import crash


class FiniteGuard(Callback):
    """Ends the run at the first step with a gradient that is not finite, or skips the step; writes `crash.txt`.

    A loss that is not finite has such a gradient. The gradient scaler of half precision skips steps while it searches
    for a scale: these steps are not checked.

    Args:
        folder: of the run.
        action: "stop", or "skip" the step and count it as `skipped_steps`.
    """

    def __init__(self, folder: Path, action: Literal["stop", "skip"]) -> None:
        self.folder, self.action = folder, action
        self.num_skipped = 0
        self.index: list[Tensor] = []  # of the samples in the batches of the step
        self.sums: Any = None  # the epoch's sums of losses before the step

    def on_train_batch_start(self, trainer: Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.index, self.sums = [], task.metrics.sums.get("train")
        self.index.append(batch["index"])

    def on_before_optimizer_step(self, trainer: Trainer, task: Any, optimizer: Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.scaled or not gradients or math.isfinite(get_total_norm(gradients)):
            return
        if self.action == "skip":
            self.num_skipped += 1
            task.log("skipped_steps", float(self.num_skipped))
            task.metrics.sums["train"] = self.sums or ({}, 0)
            for p in task.parameters():
                p.grad = None  # optimizers skip it
            return
        samples = torch.cat(self.index).tolist()
        raise RunError(
            f"error: the gradient is {get_total_norm(gradients).item()} at step {trainer.global_step} (epoch"
            f" {trainer.current_epoch}): the training diverged, or samples {samples} of the training split are"
            " broken. Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or not_finite=skip."
        )

    def on_train_epoch_end(self, trainer: Trainer, task: Any) -> None:
        if "train" in task.metrics.sums and task.metrics.sums["train"][1] == 0:
            raise RunError(
                f"error: every step of epoch {trainer.current_epoch} was skipped: the training diverged, or samples are"
                " broken. Try a smaller optimizer.lr, or not_finite=stop, which names the samples."
            )

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        """Check the metric before `ModelCheckpoint` does, which accepts a NaN as the first value."""
        monitor = getattr(trainer.checkpoint_callback, "monitor", None)
        value = trainer.callback_metrics.get(monitor) if monitor else None
        if monitor and value is None and not trainer.sanity_checking:
            known = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(f"error: monitor.metric: {unknown('metric', monitor, known)}")
        if self.action == "stop" and value is not None and not value.isfinite():
            raise RunError(
                f"error: {monitor} is {value.item()} after step {trainer.global_step} (epoch {trainer.current_epoch}):"
                " the training diverged. Try a smaller optimizer.lr."
            )

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.scaled = getattr(trainer.precision_plugin, "scaler", None) is not None

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, (UserError, KeyboardInterrupt, SystemExit)):
            crash.report(self.folder, trainer, [i for index in self.index for i in index.tolist()], exception)

    def state_dict(self) -> dict[str, int]:
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.num_skipped = state_dict["num_skipped"]
