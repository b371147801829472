import time

from lightning import Callback, LightningModule, Trainer

from lab.engine.display import say
from lab.engine.runs.summary import duration


class EpochLines(Callback):
    """Prints a line for each epoch where no progress bar is drawn.

    The line is printed when the next epoch starts: the epoch's metrics are known then. It has the metrics of validation
    only if the epoch had one.
    """

    validated = False

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.begin = self.start = time.monotonic()
        self.epoch, self.step = trainer.current_epoch, trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._print(trainer)

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self._print(trainer)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        self.validated = True

    def _print(self, trainer: Trainer) -> None:
        if trainer.current_epoch == self.epoch:
            return
        now = time.monotonic()
        self.epoch, seconds, self.start = trainer.current_epoch, now - self.start, now
        stages, self.validated = ("train/", "val/") if self.validated else ("train/",), False
        if not trainer.is_global_zero:
            return
        limit = trainer.max_epochs or -1
        number = f"{self.epoch}/{limit}" if limit > 0 else str(self.epoch)
        values = {name: v for name, v in trainer.callback_metrics.items() if name.startswith(stages)}
        parts = [f"epoch {number}", *(f"{name} {value.item():.4f}" for name, value in sorted(values.items()))]
        parts.append(duration(seconds))
        if remaining := self._remaining(trainer, now):
            parts.append(f"about {duration(remaining)} left")
        say("  ".join(parts))

    def _remaining(self, trainer: Trainer, now: float) -> float:
        """Return the estimated seconds to the end of training; 0 at the end, or if the training has no fixed length."""
        steps, total = trainer.global_step - self.step, trainer.estimated_stepping_batches
        if not steps or total == float("inf") or trainer.should_stop:
            return 0.0
        return max(0.0, (now - self.begin) / steps * (total - trainer.global_step))
