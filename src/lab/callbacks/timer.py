import time
from typing import Any

from lightning import Callback

from lab import seconds


class Timer(Callback):
    """Seconds from the keystroke to the end of the first step, of each epoch, and of the validation that is in it."""

    def __init__(self) -> None:
        self.first_step: float | None = None
        self.epochs: list[float] = []
        self.validations: list[float] = []
        self.validation = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start, self.validation = time.monotonic(), 0.0

    def on_validation_start(self, *_: Any) -> None:
        self.validation_start = time.monotonic()

    def on_validation_end(self, *_: Any) -> None:
        self.validation += time.monotonic() - self.validation_start

    def on_train_batch_end(self, *_: Any) -> None:
        if self.first_step is None:
            self.first_step = seconds.passed()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(round(time.monotonic() - self.start, 2))
        self.validations.append(round(self.validation, 2))
