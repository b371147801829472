"""The folder of a run: the names of its files, and whether it is finished and safe to read. Nothing heavy is imported.

```
config.yaml  data.json  data_report.txt  stamp.json  git.diff     written at the start
last.ckpt  previous.ckpt  best.ckpt  metrics.csv  events.*        written during the training
results.json  test_predictions.csv  figures/                      written at the end
```
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lab.engine.errors import UserError
from lab.engine.files import read_json

CONFIG, FACTS, RESULTS, STAMP = "config.yaml", "data.json", "results.json", "stamp.json"
SWEEP = "sweep.json"  # in a sweep's folder: its overrides, and the keys in which its runs differ
PREDICTIONS = "test_predictions.csv"
FIGURES, DIFF, LOCK = "figures", "git.diff", ".lock"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
DATA_REPORT = "data_report.txt"  # the samples that were found, used and left out
BEFORE_CONFIG = (LOCK, FACTS, DATA_REPORT, STAMP, DIFF)  # files that are written before the config
KNOWN = re.compile(  # the files that lab reads or writes in a run's folder
    r"(config|hparams)\.yaml|(data|results|stamp|sweep)\.json|(test_predictions|metrics)\.csv|git\.diff|\.lock"
    r"|(best|last|previous)\.ckpt|data_report\.txt|crash\d*\.txt|report\.html|model\w*\..+"
    r"|(figures|explain)(/.+)?|checkpoints(/[^/]+)?"
)


def check_finished(folder: Path) -> None:
    """Raises UserError if a folder is not that of a finished run."""
    missing = [name for name in (RESULTS, CONFIG, FACTS, BEST) if not (folder / name).is_file()]
    if not folder.is_dir():
        problem = "the folder does not exist"
    elif missing:
        problem = f"it has no {missing[0]}"
    else:
        refuse_links(folder)
        if (status := read_json(folder / RESULTS, "status")["status"]) == "finished":
            return
        problem = f"its status is {status}"
    raise UserError(f"error: {folder} is not a finished run: {problem}. lab train makes one.")


def is_half_made(folder: Path) -> bool:
    """Return whether a folder only holds files of a run that ended before its config was written."""
    names = [path.name for path in folder.iterdir()]
    return all(name in BEFORE_CONFIG or re.fullmatch(r"\..*\.tmp", name) for name in names)


def refuse_links(folder: Path, everywhere: bool = False) -> None:
    """Refuse a run's folder in which a file that lab reads or writes is a link, a pipe or a device.

    Args:
        folder: the run's folder.
        everywhere: also refuse other links that lead out of the folder, since callbacks and loggers may write to them.

    Raises:
        UserError: there is such a file; the message names it.
    """

    def unreadable(error: OSError) -> NoReturn:
        raise UserError(f"error: {folder} cannot be read: {error.strerror}.") from error

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        for path in (Path(parent, name) for name in (*folders, *files)):
            is_known = KNOWN.fullmatch(path.relative_to(folder).as_posix())
            if not (is_known or everywhere):
                continue
            with suppress(FileNotFoundError):  # a temporary file of a run in progress
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    continue
                if is_known or not stat.S_ISLNK(mode) or not path.resolve().is_relative_to(folder.resolve()):
                    kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                    raise UserError(f"error: {path} is {kind}; a run's folder may only hold regular files. Remove it.")


def latest(log_dir: Path) -> Path:
    """The folder of the run that started last, at any depth. Hidden folders, such as the archive, are ignored.

    Raises:
        UserError: there is no run.
    """
    starts = [(start, folder) for folder in runs_below(log_dir) if (start := _start_time(folder)) is not None]
    if not starts:
        raise UserError(f"error: run=latest: there is no run in {log_dir}. Train one first, or set log_dir.")
    return max(starts)[1]


def runs_below(log_dir: Path) -> Iterator[Path]:
    """The folders of all runs. A run is never inside another run."""
    for parent, folders, files in os.walk(log_dir):
        folders[:] = [] if CONFIG in files else sorted(name for name in folders if not name.startswith("."))
        if CONFIG in files:
            yield Path(parent)


def _start_time(folder: Path) -> float | None:
    """Seconds since 1970; None if the stamp is missing or damaged."""
    try:
        start = read_json(folder / STAMP).get("began")
    except UserError:
        return None
    return start if isinstance(start, float | int) else None
