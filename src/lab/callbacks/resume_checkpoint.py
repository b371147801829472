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
    """Keeps `last.ckpt`; a run that resumes from it is identical to an uninterrupted one.

    It is saved between two batches, after the optimizer step, the validation and the logging of the first. At any other
    time Lightning's loops hold a partial state, which they do not resume exactly.

    Args:
        folder: of the run.
        end: the settings that decide when training ends; see `lab.engine.runs.ending`.
        every_n_steps: optimizer steps between two checkpoints, in addition to those at the end of each epoch.
        every_n_minutes: minutes between two checkpoints, likewise.
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
        self.validated: dict[str, float] = {}  # metrics of the latest validation, which may precede the resume
        self.fitted = False  # whether the training had ended
        self.counters: tuple[int, int] | None = None  # of the loop, restored at the first batch

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.saved_step, self.saved_time, self.fitted = trainer.global_step, time.monotonic(), False
        stop_request.is_fitting = True

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.counters is not None:
            restore_loop_counters(trainer, self.counters)
            self.counters = None
        if batch_idx % trainer.accumulate_grad_batches:
            return  # within an accumulated optimizer step
        code, due = divmod(max_over_ranks(trainer, 2 * stop_request.exit_code + self._due(trainer, batch_idx)), 2)
        if code or due:
            self._save(trainer)
        exit_with(trainer, code)

    def on_validation_batch_start(self, *_: Any) -> None:
        if stop_request.overdue():  # a resumed run repeats this validation
            raise SystemExit(stop_request.exit_code)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = trainer.callback_metrics.items()
            self.validated = {name: value.item() for name, value in metrics if name.startswith("val/")}

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.fitted, stop_request.is_fitting = True, False
        self._save(trainer)
        exit_with(trainer, max_over_ranks(trainer, stop_request.exit_code))

    def _due(self, trainer: Trainer, batch_idx: int) -> bool:
        steps = trainer.global_step - self.saved_step
        if not steps:
            return False
        late = self.every_n_minutes and time.monotonic() - self.saved_time >= 60 * self.every_n_minutes
        return bool(batch_idx == 0 or late or (self.every_n_steps and steps >= self.every_n_steps))

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # a resumed run repeats the values that are logged later
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
            trainer.should_stop = True  # Lightning does not restore it after an early stop


def exit_with(trainer: Trainer, code: int) -> None:
    """Exit unless the code is 0. After SLURM's warning before the time limit, requeue the job."""
    if code == 128 + signal.SIGUSR1 and trainer.is_global_zero:
        requeue()
    if code:
        raise SystemExit(code)


def max_over_ranks(trainer: Trainer, value: int) -> int:
    """Return the largest value of all ranks."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return int(tensor)
