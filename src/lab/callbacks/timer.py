import time
from typing import Any

from lightning import Callback

from lab import seconds


class Timer(Callback):
    """Seconds from the keystroke to the end of the first step, and of each epoch with its validation."""

    def __init__(self) -> None:
        self.first_step: float | None = None
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = time.monotonic()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.first_step is None:
            self.first_step = seconds.passed()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(round(time.monotonic() - self.start, 2))
