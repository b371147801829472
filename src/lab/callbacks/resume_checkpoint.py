import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from pydantic import PositiveFloat, PositiveInt

from lab.engine.folder import LAST
from lab.engine.launch.signals import requeue, stop_request
from lab.engine.runs.ending import why_ended
from lab.engine.training.lightning_quirks import loop_counters, restore_loop_counters


class ResumeCheckpoint(Callback):
    """Keeps `last.ckpt`, from which a run is resumed as if it had never been stopped.

    It is saved between two batches, when the first is done with: its optimizer step, its validation, its log. At every
    other moment Lightning's loops have something half done, which they do not all take up again.

    Args:
        folder: the run's.
        end: the settings that decide when training ends: see `lab.engine.runs.ending`.
        every_n_steps: save after so many optimizer steps too, not only after each epoch.
        every_n_minutes: the same, by the clock.
    """

    def __init__(
        self,
        folder: Path,
        end: dict[str, Any],
        every_n_steps: PositiveInt | None = None,
        every_n_minutes: PositiveFloat | None = None,
    ) -> None:
        self.path, self.every_n_steps, self.every_n_minutes = Path(folder) / LAST, every_n_steps, every_n_minutes
        self.end = end
        self.validated: dict[str, float] = {}  # the metrics of the latest validation, of the run that is resumed too
        self.fitted = False  # the checkpoint is that of a training which has ended
        self.counters: tuple[int, int] | None = None  # restored, for the loop

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.saved_step, self.saved_time, self.fitted = trainer.global_step, time.monotonic(), False
        stop_request.is_fitting = True

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.counters is not None:
            restore_loop_counters(trainer, self.counters)
            self.counters = None
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients of an optimizer step are gathered
        code, due = divmod(largest(trainer, 2 * stop_request.exit_code + self._due(trainer, batch_idx)), 2)
        if code or due:
            self._save(trainer)
        leave(trainer, code)

    def on_validation_batch_start(self, *_: Any) -> None:
        if stop_request.overdue():  # what is validated now is validated again
            raise SystemExit(stop_request.exit_code)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self.validated = {name: value.item() for name, value in metrics if name.startswith("val/")}

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.fitted, stop_request.is_fitting = True, False
        self._save(trainer)
        leave(trainer, largest(trainer, stop_request.exit_code))

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        steps = trainer.global_step - self.saved_step
        if not steps:
            return False
        late = self.every_n_minutes and time.monotonic() - self.saved_time >= 60 * self.every_n_minutes
        return bool(batch_idx == 0 or late or (self.every_n_steps and steps >= self.every_n_steps))

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # what was logged until now stays; what is logged from now on is logged again
        trainer.save_checkpoint(self.path)
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        stepped, ready = loop_counters(trainer)
        checkpoint["last"] = {
            "batches_that_stepped": stepped,
            "batches_ready": ready,
            "fitted": self.fitted,
            "end": self.end,
            "validated": self.validated,
        }

    def on_load_checkpoint(self, trainer: Trainer, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        last = checkpoint["last"]
        self.counters = None if last["fitted"] else (last["batches_that_stepped"], last["batches_ready"])
        self.validated = last["validated"]
        if why_ended(self.end, checkpoint):
            trainer.should_stop = True  # it may have stopped early, which Lightning forgets


def leave(trainer: Trainer, code: int) -> None:
    """Exit with a code that is not 0; a SLURM job that was warned of its end has itself started again."""
    if code == 128 + signal.SIGUSR1 and trainer.is_global_zero:
        requeue()
    if code:
        raise SystemExit(code)


def largest(trainer: Trainer, value: int) -> int:
    """The largest of all processes' values: what one is asked, all do."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return int(tensor)
