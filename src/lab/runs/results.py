"""The results of a run: `results.json`, and the summary that is printed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Trainer

from lab.callbacks.best_checkpoint import BestCheckpoint
from lab.callbacks.epoch_timer import EpochTimer
from lab.callbacks.resume_checkpoint import ResumeCheckpoint
from lab.data.base import Data
from lab.engine import timing
from lab.engine.display import say
from lab.engine.errors import Pruned
from lab.engine.files import read_json, write_json
from lab.engine.folder import RESULTS
from lab.engine.runs.summary import opening, stopped, summary
from lab.engine.secrets import redacted
from lab.engine.training.loggers import log_hyperparameters
from lab.engine.training.trainer import find_callback, typed
from lab.runs.best import best_score, validate
from lab.runs.finished import restore
from lab.tasks.base import Task


@contextmanager
def recorded(folder: Path, trainer: Trainer, task: Task, step: int = 0) -> Iterator[dict[str, Any]]:
    """Write `results.json` at the start and at the end of a run, however the run ends.

    Args:
        folder: the run's folder.
        trainer: the run's trainer.
        task: whose parameters are counted.
        step: where the run starts or resumes; it is printed.

    Yields:
        The content of `results.json`, to be filled. The status and the times are added at the end.
    """
    results: dict[str, Any] = {"status": "running", "parameters": sum(p.numel() for p in task.parameters())}
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
    except SystemExit as error:  # a signal or a pruner stopped the run
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
    """Load the best weights into the task, validate and test them, and put the metrics into the results.

    Returns:
        The best value of the monitored metric.
    """
    best = best_score(trainer, task, data)
    checkpoint = find_callback(trainer, BestCheckpoint)
    # the last validation may precede the resume
    results["last"] = find_callback(trainer, ResumeCheckpoint).validated
    results["best"] = {"metric": checkpoint.monitor, "mode": checkpoint.mode, "value": best}
    restore(task, checkpoint.folder)
    with timing.announced("Testing the best weights"):
        results["best"]["metrics"] = validate(trainer, task, data)
        results["test"] = trainer.test(task, data, verbose=False)[0]
    return best


def print_summary(trainer: Trainer, results: dict[str, Any], folder: Path) -> None:
    """Print the test metrics, and log the hyperparameters with them."""
    if trainer.is_global_zero:
        log_hyperparameters(trainer, folder, results)
        say(*summary(results, folder))
