import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
)
from omegaconf import DictConfig
from torchmetrics import MetricCollection

from lab.callbacks.figures import Figures
from lab.callbacks.last import Last
from lab.callbacks.progress import ProgressBar
from lab.callbacks.step_seed import StepSeed
from lab.callbacks.timer import Timer
from lab.data.base import Data
from lab.engine import timing
from lab.engine.display import say
from lab.engine.errors import Pruned, RunError, fail, unknown
from lab.engine.folder import BEST, RESULTS, read_json, write_json
from lab.engine.runs.summary import stopped
from lab.engine.secrets import redacted
from lab.engine.training.trainer import declared, only
from lab.metrics.added import has_several_values


@contextmanager
def recorded(folder: Path, trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Keep `results.json` true: whatever is put in the dict that this yields, the seconds, and how the run ended."""
    results: dict[str, Any] = {"status": "running"}
    before = read_json(folder / RESULTS, "seconds")["seconds"]["total"] if (folder / RESULTS).exists() else 0.0
    timer = only(trainer, Timer)

    def save(status: str) -> None:
        if trainer.is_global_zero:
            times = {"first_step": timer.first_step, "epochs": timer.epochs, "validations": timer.validations}
            results.update(status=status, seconds=timing.laps | times | {"total": before + timing.passed()})
            try:
                write_json(folder / RESULTS, results)
            except OSError as error:
                say(f"warning: {folder / RESULTS} could not be written: {error}", file=sys.stderr)

    save("running")
    try:
        yield results
    except SystemExit as error:  # asked for: see `Stop`
        save("pruned" if isinstance(error, Pruned) else "interrupted")
        if trainer.is_global_zero and not isinstance(error, Pruned):
            say(*stopped(folder, error.code, can_resume=not declared(trainer).overfit_batches))
        raise
    except BaseException as error:
        results["error"] = redacted(f"{type(error).__name__}: {error}")
        save("failed")
        raise
    save("finished")


def last_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the latest validation, which may precede the resume."""
    return only(trainer, Last).validated


def best_score(trainer: Trainer, task: LightningModule, data: Data, folder: Path, metric: str) -> float:
    """The best value of the monitored metric, not the last.

    A run that ends before its first validation is validated now, and its weights are the best that it has.

    Raises:
        UserError: the metric or the last training loss is not a finite number: the training diverged.
    """
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    score = trainer.checkpoint_callback.best_model_score
    if score is None:
        score = torch.tensor(trainer.validate(task, data, verbose=False)[0][metric])
        trainer.save_checkpoint(folder / BEST)
    for name, value in {metric: score, "train/loss": trainer.callback_metrics.get("train/loss", score)}.items():
        if not value.isfinite():
            raise RunError(f"error: {name} is {value.item()}: the training diverged. Try a smaller optimizer.lr.")
    return score.item()


def validate(trainer: Trainer, task: LightningModule, data: Data) -> dict[str, float]:
    """The validation metrics of the weights that a task has; no curve shows them again."""
    own = declared(trainer)
    loggers, callbacks = own.loggers, own.callbacks
    own.loggers, own.callbacks = [], [c for c in callbacks if isinstance(c, StepSeed | Figures | ProgressBar)]
    try:
        return dict(trainer.validate(task, data, verbose=False)[0])
    finally:
        own.loggers, own.callbacks = loggers, callbacks


def check_monitor(cfg: DictConfig, task: LightningModule) -> None:
    """Raises UserError where no validation will report what is monitored.

    The parts of the loss, and the values of a metric that has several, are known after the first validation; `Guard`
    checks them then.
    """
    metrics = task.get_submodule("metrics.val_")
    assert isinstance(metrics, MetricCollection)
    names, monitored = {f"val/{name}" for name in ("loss", *metrics.keys())}, cfg.monitor.metric
    is_open = any(map(has_several_values, metrics.values(copy_state=False))) and monitored.startswith("val/")
    if monitored not in names and not monitored.startswith("val/loss/") and not is_open:
        fail([f"monitor.metric: {unknown('metric', monitored, names)}"])
