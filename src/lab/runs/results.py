"""The end of a run: the best weights, their metrics, and `results.json`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from omegaconf import DictConfig
from torchmetrics import MetricCollection

from lab.callbacks.best_checkpoint import BestCheckpoint
from lab.callbacks.epoch_timer import EpochTimer
from lab.callbacks.figures import Figures
from lab.callbacks.resume_checkpoint import ResumeCheckpoint
from lab.callbacks.step_seed import StepSeed
from lab.data.base import Data
from lab.engine import timing
from lab.engine.display import say
from lab.engine.errors import Pruned, RunError, fail, unknown
from lab.engine.folder import BEST, RESULTS, read_json, write_json
from lab.engine.runs.summary import opening, stopped, summary
from lab.engine.secrets import redacted
from lab.engine.training.lightning_quirks import ThrottledProgressBar
from lab.engine.training.loggers import log_hyperparameters
from lab.engine.training.trainer import find_callback, typed
from lab.metrics.added import has_several_values
from lab.runs.load import restore
from lab.tasks.base import Task


@contextmanager
def recorded(folder: Path, trainer: Trainer, step: int = 0) -> Iterator[dict[str, Any]]:
    """Write `results.json` at the start and at the end of a run, whichever way it ends.

    Args:
        folder: of the run.
        trainer: of the run.
        step: at which it begins or resumes, for the line that is printed first.

    Yields:
        The content of `results.json`. The seconds and the status are added.
    """
    results: dict[str, Any] = {"status": "running"}
    before = read_json(folder / RESULTS, "seconds")["seconds"]["total"] if (folder / RESULTS).exists() else 0.0
    timer = find_callback(trainer, EpochTimer)

    def save(status: str) -> None:
        if trainer.is_global_zero:
            times = {"first_step": timer.first_step, "epochs": timer.epochs, "validations": timer.validations}
            results.update(status=status, seconds=timing.laps | times | {"total": before + timing.passed()})
            try:
                write_json(folder / RESULTS, results)
            except OSError as error:
                say(f"warning: {folder / RESULTS} could not be written: {error}", file=sys.stderr)

    if trainer.is_global_zero:
        say(opening(trainer, folder, step))
    save("running")
    try:
        yield results
    except SystemExit as error:  # asked for: see `StopRequest`
        save("pruned" if isinstance(error, Pruned) else "interrupted")
        if trainer.is_global_zero and not isinstance(error, Pruned):
            say(*stopped(folder, error.code, can_resume=not typed(trainer).overfit_batches))
        raise
    except BaseException as error:
        results["error"] = redacted(f"{type(error).__name__}: {error}")
        save("failed")
        raise
    save("finished")


def test_best_weights(trainer: Trainer, task: Task, data: Data, results: dict[str, Any]) -> float:
    """Give the task its best weights, validate and test them; put the metrics into the results.

    Returns:
        The best value of the monitored metric.
    """
    results["parameters"] = sum(p.numel() for p in task.parameters())
    best = best_score(trainer, task, data)
    checkpoint = find_callback(trainer, BestCheckpoint)
    results["last"] = find_callback(trainer, ResumeCheckpoint).validated  # it may precede the resume
    results["best"] = {"metric": checkpoint.monitor, "mode": checkpoint.mode, "value": best}
    restore(task, checkpoint.folder)
    with timing.announced("Testing the best weights"):
        results["best"]["metrics"] = validate(trainer, task, data)
        results["test"] = trainer.test(task, data, verbose=False)[0]
    return best


def best_score(trainer: Trainer, task: LightningModule, data: Data) -> float:
    """The best value of the monitored metric, not the last.

    A run that ends before its first validation is validated now, and its weights are the best that it has.

    Raises:
        UserError: the metric or the last training loss is not a finite number: the training diverged.
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
    """The validation metrics of the weights that a task has; no curve shows them again."""
    own = typed(trainer)
    loggers, callbacks = own.loggers, own.callbacks
    own.loggers, own.callbacks = [], [c for c in callbacks if isinstance(c, StepSeed | Figures | ThrottledProgressBar)]
    try:
        return dict(trainer.validate(task, data, verbose=False)[0])
    finally:
        own.loggers, own.callbacks = loggers, callbacks


def check_monitor(cfg: DictConfig, task: LightningModule) -> None:
    """Raises UserError where no validation will report what is monitored.

    The parts of the loss, and the values of a metric that has several, are known after the first validation;
    `FiniteGuard` checks them then.
    """
    metrics = task.get_submodule("metrics.val_")
    assert isinstance(metrics, MetricCollection)
    names, monitored = {f"val/{name}" for name in ("loss", *metrics.keys())}, cfg.monitor.metric
    is_open = any(map(has_several_values, metrics.values(copy_state=False))) and monitored.startswith("val/")
    if monitored not in names and not monitored.startswith("val/loss/") and not is_open:
        fail([f"monitor.metric: {unknown('metric', monitored, names)}"])


def print_summary(trainer: Trainer, results: dict[str, Any], folder: Path) -> None:
    """Print the test metrics, and log the hyperparameters with them."""
    if trainer.is_global_zero:
        log_hyperparameters(trainer, folder, results)
        say(*summary(results, folder))
