"""`seeds=N` and `cv=N`: a run repeated over seeds or folds, the mean of its scores, and out-of-fold predictions."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lab.engine.config.sweep_overrides import parse_overrides
from lab.engine.display import csv_cell, printable, say
from lab.engine.errors import UserError, fail
from lab.engine.files import atomic_write
from lab.engine.folder import PREDICTIONS
from lab.engine.runs.index import read_runs
from lab.engine.runs.rows import group_rows, headings
from lab.engine.runs.table import terminal, with_headings

REPEATS = ("seed", "fold")  # keys that repeat a run and are not hyperparameters


def repeated(overrides: Sequence[Override], cfg: DictConfig) -> list[Override]:
    """Turn `seeds` and `cv` into overrides of a grid: `seed=range(…)` and `fold=range(…)`.

    Raises:
        UserError: `seeds` or `cv` itself has several values, or the seeds are given twice.
    """
    words, replaced = [], set()
    several = [o for o in overrides if o.is_sweep_override()]
    if varied := [o.input_line for o in several if o.key_or_group in ("cv", "seeds")]:
        fail([f"{line}: cv and seeds cannot be swept; start one sweep for each value" for line in varied])
    if cfg.seeds is not None:
        words += ["seeds=null", f"seed=range({cfg.seed},{cfg.seed + cfg.seeds})"]
        replaced = {"seeds", "seed"}
        if many := [o.input_line for o in several if o.key_or_group in replaced]:
            fail([f"{many[0]}: seeds={cfg.seeds} already sets the seeds; remove one of the two"])
    if cfg.cv is not None and cfg.fold is None:
        words.append(f"fold=range(0,{cfg.cv})")
    return [*(o for o in overrides if o.key_or_group not in replaced), *parse_overrides(words)]


def aggregate(folder: Path, varied: Collection[str]) -> str:
    """A table of mean ± standard deviation over seeds and folds, a row for each combination of the other keys.

    Args:
        folder: the sweep's folder.
        varied: the keys that differ between its jobs.

    Returns:
        The table; "" if neither seeds nor folds vary.
    """
    if not set(varied) & set(REPEATS):
        return ""
    runs = read_runs(folder)
    rows = list(group_rows(runs, sorted(set(varied) - set(REPEATS))))
    return "\n" + terminal(with_headings(rows, headings(runs))) if rows else ""


def write_out_of_fold(folder: Path, varied: Collection[str]) -> None:
    """Collect the test predictions of all folds in `out_of_fold.csv`: no run was trained on the samples it predicts."""
    runs = [run for run in read_runs(folder) if "fold" in run.overrides]
    paths = [folder / run.folder / PREDICTIONS for run in runs]
    rows: list[dict[str, str]] = []
    for run, path in zip(runs, paths, strict=True):
        if run.status == "finished" and path.exists():
            of_run = {key: csv_cell(printable(run.overrides.get(key, ""))) for key in sorted(varied)}
            rows += [of_run | row for row in _predictions(path)]
    if rows:
        done = sum(run.status == "finished" for run in runs)
        with (
            atomic_write(folder / "out_of_fold.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        say(f"out-of-fold predictions of {done} of {len(runs)} runs: {folder / 'out_of_fold.csv'}")


def _predictions(path: Path) -> list[dict[str, str]]:
    """The rows of a run's predictions. Paths in them need not be UTF-8.

    Raises:
        UserError: the file is not such a table.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may hold a long text
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise UserError(f"error: {path} is damaged: {error}.") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"error: {path} is damaged: a row has more or fewer cells than the header.")
    return rows
