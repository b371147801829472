"""What is logged, kept through kills and full disks."""

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
from torch.utils.tensorboard.summary import hparams

from lab.engine.display import in_utf8, say
from lab.engine.files import atomic_write, read_metrics
from lab.engine.runs.index import parsed, read_run


class MetricsCSV(Logger):
    """`metrics.csv`: a row for each step at which something was logged, in one table that is whole at any instant.

    Args:
        folder: the run's.
        from_step: rows of this step and later are forgotten: a resumed run logs them again.
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
        """They are in `config.yaml`."""

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
    """Every override of a run, with its scores, for TensorBoard's table of hyperparameters."""
    overrides = {key: parsed(text) for key, text in read_run(folder).overrides.items()}
    words = {True: "true", False: "false", None: "null"}  # TensorBoard shows 1.0 for true, and no column for None
    values = {key: words[v] if v is None or isinstance(v, bool) else v for key, v in overrides.items()}
    values = {in_utf8(key): in_utf8(v) if isinstance(v, str) else v for key, v in values.items()}
    test = {name: value for name, value in results["test"].items() if name.count("/") < 2}  # not of each class
    best = {f"best/{results['best']['metric']}": results["best"]["value"]}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(best, trainer.global_step)
            with contextlib.suppress(OSError):  # log_metrics has reported it
                # The first summary would be the columns for all runs below --logdir, of whichever run is read first.
                # Without it, TensorBoard collects the columns from all runs.
                _, *session = hparams(values, best | test | results["last"])
                for summary in session:
                    logger.experiment._get_file_writer().add_summary(summary)
            logger.finalize("success")  # what is not written yet is lost when a sweep's job ends
        else:
            logger.log_hyperparams(values)


class _Board(TensorBoardLogger):
    @property
    def log_dir(self) -> str:
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return str(Path(self.root_dir, version, self.sub_dir or ""))


def unexpanded(logger: Logger) -> Logger:
    """The logger; TensorBoard's takes `$NAME` in its folder for a variable of the environment otherwise."""
    if type(logger) is TensorBoardLogger:
        logger.__class__ = _Board  # a config names Lightning's
    return logger


def forgiving(logger: Logger) -> Logger:
    """The logger; where it can't write, it says so once and stops no training."""
    said = False

    def forgive(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def forgiven(*args: Any, **kwargs: Any) -> Any:
            nonlocal said
            try:
                return method(*args, **kwargs)
            except Exception as error:
                if not _of_the_system(error):
                    raise
                if not said:
                    say(f"warning: {type(logger).__name__} can't write: {error}. Training continues.", file=sys.stderr)
                said = True

        return forgiven

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, forgive(getattr(logger, name)))
    return logger


def _of_the_system(error: BaseException | None) -> bool:
    """Whether an error comes of one of the operating system's, whatever a library made of it."""
    return error is not None and (isinstance(error, OSError) or _of_the_system(error.__cause__ or error.__context__))
