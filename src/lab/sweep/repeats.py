"""The same run several times, over folds and seeds: its jobs, and what they come to together."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lab.engine.config.sweep_overrides import parse_overrides
from lab.engine.display import csv_cell, printable, say
from lab.engine.errors import UserError, fail
from lab.engine.folder import PREDICTIONS, atomic_write
from lab.engine.runs.index import read
from lab.engine.runs.rows import grouped, headings
from lab.engine.runs.table import headed, terminal

REPEATS = ("seed", "fold")  # keys whose values are no choice


def repeated(overrides: Sequence[Override], cfg: DictConfig) -> list[Override]:
    """Overrides that have the values of `seeds` and `cv` as any others of a grid."""
    words, taken = [], set()
    several = [o for o in overrides if o.is_sweep_override()]
    if varied := [o.input_line for o in several if o.key_or_group in ("cv", "seeds")]:
        fail([f"{line}: cv and seeds cannot be swept; start one sweep for each value" for line in varied])
    if cfg.seeds is not None:
        words += ["seeds=null", f"seed=range({cfg.seed},{cfg.seed + cfg.seeds})"]
        taken = {"seeds", "seed"}
        if many := [o.input_line for o in several if o.key_or_group in taken]:
            fail([f"{many[0]}: seeds={cfg.seeds} already sets the seeds; remove one of the two"])
    if cfg.cv is not None and cfg.fold is None:
        import sklearn.model_selection  # noqa: F401  # once: jobs are forked

        words.append(f"fold=range(0,{cfg.cv})")
    return [*(o for o in overrides if o.key_or_group not in taken), *parse_overrides(words)]


def aggregate(place: Path, varied: Collection[str]) -> str:
    """Mean ± standard deviation of a sweep's scores over its seeds and folds, for each combination of the rest."""
    if not set(varied) & set(REPEATS):
        return ""
    runs = read(place)
    rows = list(grouped(runs, sorted(set(varied) - set(REPEATS))))
    return "\n" + terminal(headed(rows, headings(runs))) if rows else ""


def write_out_of_fold(place: Path, varied: Collection[str]) -> None:
    """Put what the runs of all folds made of the samples that they were not trained on in one file."""
    runs = [run for run in read(place) if "fold" in run.overrides]
    paths = [place / run.folder / PREDICTIONS for run in runs]
    keys = sorted(varied)
    rows: list[dict[str, str]] = []
    for run, path in zip(runs, paths, strict=True):
        if run.status == "finished" and path.exists():
            own = {key: csv_cell(printable(run.overrides.get(key, ""))) for key in keys}
            rows += [own | row for row in _predictions(path)]
    if rows:
        done = sum(run.status == "finished" for run in runs)
        with (
            atomic_write(place / "out_of_fold.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        say(f"out-of-fold predictions of {done} of {len(runs)} runs: {place / 'out_of_fold.csv'}")


def _predictions(path: Path) -> list[dict[str, str]]:
    """Return the rows of a run's predictions; paths in them need not be UTF-8.

    Raises:
        UserError: it is no such table.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may be a long text
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise UserError(f"error: {path} is damaged: {error}.") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"error: {path} is damaged: a row has not as many cells as there are columns.")
    return rows
