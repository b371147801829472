from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from lab.engine.display import say


class ResumableEarlyStopping(EarlyStopping):
    """Lightning's `EarlyStopping` that prints the reason, and restarts its count if a resume changes the patience."""

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        if self.wait_count >= self.patience and trainer.is_global_zero:
            count = "validation" if self.patience == 1 else f"{self.patience} validations"
            say(
                f"early_stopping={self.patience}: stopped, because {self.monitor} did not improve on"
                f" {self.best_score:.4f} in the last {count}. Increase early_stopping, or set it to null, to continue."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        if self.patience != patience:
            self.patience, self.wait_count, self.stopped_epoch = patience, 0, 0
