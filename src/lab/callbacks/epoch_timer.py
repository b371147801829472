import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from lab.engine import timing


class EpochTimer(Callback):
    """Measures the seconds from the start of the program to the first step, of each epoch, and of its validations.

    An epoch ends when the next one starts; it includes its metrics and checkpoints.
    """

    def __init__(self) -> None:
        self.first_step: float | None = None
        self.epochs: list[float] = []
        self.validations: list[float] = []
        self.start: float | None = None
        self.validation = 0.0
        self.counted = False  # the epoch has had a step

    def on_train_start(self, *_: Any) -> None:
        self._epoch()  # a run that resumes within an epoch does not start the epoch

    def on_train_epoch_start(self, *_: Any) -> None:
        self._epoch()

    def on_train_end(self, *_: Any) -> None:
        self._epoch()

    def _epoch(self) -> None:
        now = time.monotonic()
        if self.start is not None and self.counted:
            self.epochs.append(round(now - self.start, 4))
            self.validations.append(round(self.validation, 4))
        self.start, self.validation, self.counted = now, 0.0, False

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # queued training steps are not part of the validation
        self.validation_start = time.monotonic()

    def on_validation_end(self, *_: Any) -> None:
        self.validation += time.monotonic() - self.validation_start

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        self.counted = True
        if self.first_step is None:
            self.first_step = timing.passed()
