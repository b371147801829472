"""The best weights of a run: the checkpoint with the best validation value of the monitored metric."""

import torch
from lightning import LightningModule, Trainer
from omegaconf import DictConfig

from lab.callbacks.best_checkpoint import BestCheckpoint
from lab.callbacks.figures import Figures
from lab.callbacks.step_seed import StepSeed
from lab.data.base import Data
from lab.engine.errors import RunError, fail, unknown
from lab.engine.folder import BEST
from lab.engine.training.lightning_quirks import ThrottledProgressBar
from lab.engine.training.trainer import find_callback, typed
from lab.metrics.added import has_several_values
from lab.tasks.base import Task


def check_monitor(cfg: DictConfig, task: Task) -> None:
    """Raises UserError if no validation reports the monitored metric.

    The parts of the loss, and the values of a metric with several values, are not known before the first validation.
    `FiniteGuard` checks them then.
    """
    metrics = task.metrics["val"]
    names, monitored = {f"val/{name}" for name in ("loss", *metrics.keys())}, cfg.monitor.metric
    is_open = any(map(has_several_values, metrics.values(copy_state=False))) and monitored.startswith("val/")
    if monitored not in names and not monitored.startswith("val/loss/") and not is_open:
        fail([f"monitor.metric: {unknown('metric', monitored, names)}"])


def best_score(trainer: Trainer, task: LightningModule, data: Data) -> float:
    """The best value of the monitored metric.

    A run that ended before its first validation is validated here; its last weights are its best weights.

    Raises:
        RunError: the value, or the last training loss, is not finite: the training diverged.
    """
    checkpoint = find_callback(trainer, BestCheckpoint)
    metric, score = str(checkpoint.monitor), checkpoint.best_model_score
    if score is None:
        score = torch.tensor(trainer.validate(task, data, verbose=False)[0][metric])
        trainer.save_checkpoint(checkpoint.folder / BEST)
    for name, value in {metric: score, "train/loss": trainer.callback_metrics.get("train/loss", score)}.items():
        if not value.isfinite():
            raise RunError(f"error: {name} is {value.item()}: the training diverged. Try a smaller optimizer.lr.")
    return score.item()


def validate(trainer: Trainer, task: LightningModule, data: Data) -> dict[str, float]:
    """The validation metrics of a task's current weights. They are drawn as figures, but not logged as curves."""
    settings = typed(trainer)
    loggers, callbacks = settings.loggers, settings.callbacks
    settings.loggers = []
    settings.callbacks = [c for c in callbacks if isinstance(c, StepSeed | Figures | ThrottledProgressBar)]
    try:
        return dict(trainer.validate(task, data, verbose=False)[0])
    finally:
        settings.loggers, settings.callbacks = loggers, callbacks
