"""Loggers that survive kills and full disks."""

import contextlib
import csv
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lab.engine.display import in_utf8, say
from lab.engine.files import atomic_write, read_metrics
from lab.engine.runs.index import parsed, read_run
from lab.engine.training.lightning_quirks import add_hyperparameters


class MetricsCSV(Logger):
    """Writes `metrics.csv`: a row for each step at which a value was logged. The file is replaced atomically.

    Args:
        folder: of the run.
        from_step: rows of this step and later are dropped: a resumed run logs them again.
    """

    name, version = "metrics", ""

    def __init__(self, folder: Path, from_step: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = [row for row in read_metrics(self.path) if row["step"] < from_step]

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update(metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: they are in `config.yaml`."""

    @rank_zero_only
    def save(self) -> None:
        names = dict.fromkeys(["step", *(name for row in self.rows for name in row)])
        with atomic_write(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.rows:
            self.save()


def log_hyperparameters(trainer: Trainer, folder: Path, results: dict[str, Any]) -> None:
    """Log the overrides of a run with its scores, for TensorBoard's HParams page."""
    overrides = {key: parsed(text) for key, text in read_run(folder).overrides.items()}
    words = {True: "true", False: "false", None: "null"}  # TensorBoard shows true as 1.0, and None not at all
    values = {key: words[v] if v is None or isinstance(v, bool) else v for key, v in overrides.items()}
    values = {in_utf8(key): in_utf8(v) if isinstance(v, str) else v for key, v in values.items()}
    test = {name: value for name, value in results["test"].items() if name.count("/") < 2}  # none of a class
    best = {f"best/{results['best']['metric']}": results["best"]["value"]}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(best, trainer.global_step)
            with contextlib.suppress(OSError):  # log_metrics has reported it
                add_hyperparameters(logger, values, best | test | results["last"])
            logger.finalize("success")  # the process of a sweep's job exits without flushing files
        else:
            logger.log_hyperparams(values)


def tolerate_write_errors(logger: Logger) -> Logger:
    """Return the logger; the first OSError of a write prints a warning, and no OSError ends the training."""
    has_warned = False

    def tolerant(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal has_warned
            try:
                return method(*args, **kwargs)
            except Exception as error:
                if not _comes_of_os_error(error):
                    raise
                if not has_warned:
                    message = f"warning: {type(logger).__name__} can't write: {error}. Training continues."
                    say(message, file=sys.stderr)
                has_warned = True

        return call

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, tolerant(getattr(logger, name)))
    return logger


def _comes_of_os_error(error: BaseException | None) -> bool:
    """Return whether an error is an OSError, or was raised while one was handled."""
    return error is not None and (
        isinstance(error, OSError) or _comes_of_os_error(error.__cause__ or error.__context__)
    )
