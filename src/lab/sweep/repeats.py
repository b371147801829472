"""The same run several times, over folds and seeds: its jobs, and what they come to together."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lab.config import fail, parsed
from lab.folder import PREDICTIONS
from lab.runs.index import read
from lab.runs.main import grouped
from lab.runs.table import text

REPEATS = ("seed", "fold")  # keys whose values are no choice


def repeated(overrides: Sequence[Override], cfg: DictConfig) -> list[Override]:
    """Overrides that have the values of `seeds` and `cv` as any others of a grid."""
    words, taken = [], set()
    if cfg.seeds is not None:
        words += ["seeds=null", f"seed=range({cfg.seed},{cfg.seed + cfg.seeds})"]
        taken = {"seeds", "seed"}
        if many := [o.input_line for o in overrides if o.key_or_group in taken and o.is_sweep_override()]:
            fail([f"{many[0]}: seeds={cfg.seeds} says which seeds there are; one of the two"])
    if cfg.cv is not None and cfg.fold is None:
        words.append(f"fold=range(0,{cfg.cv})")
    return [*(o for o in overrides if o.key_or_group not in taken), *parsed(words)]


def aggregate(place: Path, varied: Collection[str]) -> str:
    """Mean ± standard deviation of a sweep's scores over its seeds and folds, for each combination of the rest."""
    if not set(varied) & set(REPEATS):
        return ""
    return "\n" + text(list(grouped(read(place), sorted(set(varied) - set(REPEATS)))))


def write_out_of_fold(place: Path, varied: Collection[str]) -> None:
    """Put what the runs of all folds made of the samples that they were not trained on in one file."""
    runs = [run for run in read(place) if run.status == "finished" and "fold" in run.overrides]
    paths = [place / run.folder / PREDICTIONS for run in runs]
    keys = sorted(varied)
    lines: list[list[str]] = []
    for run, path in zip(runs, paths, strict=True):
        if path.exists():
            with open(path, newline="") as file:
                head, *rows = csv.reader(file)
            lines += [[*(run.overrides.get(key, "") for key in keys), *row] for row in rows]
    if lines:
        with open(place / "out_of_fold.csv", "w", newline="") as file:
            csv.writer(file).writerows([[*keys, *head], *lines])
        print(f"out-of-fold predictions: {place / 'out_of_fold.csv'}")
