import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lab.config import is_group
from lab.display import command, say
from lab.runs.index import Run, read
from lab.sweep.repeats import REPEATS
from lab.words import value_of

LEFT_OUT = (*REPEATS, "seeds", "cv")


def write_best(place: Path, mode: str) -> None:
    """Put the best of a sweep, by the mean over seeds and folds, in `best.yaml`; of all its starts."""
    groups: dict[str, list[Run]] = {}
    for run in read(place):
        if run.status == "finished":
            groups.setdefault(
                str({key: value for key, value in run.overrides.items() if key not in LEFT_OUT}), []
            ).append(run)
    if groups:
        most = max(map(len, groups.values()))  # what some of whose runs failed is not compared with what is whole
        whole = [runs for runs in groups.values() if len(runs) == most]
        best = (max if mode == "max" else min)(whole, key=mean)
        (place / "best.yaml").write_text(experiment(best), encoding="utf-8")
        say(f"as an experiment: {command('cp', str(place / 'best.yaml'), 'conf/experiment/NAME.yaml')}")


def mean(runs: Sequence[Run]) -> float:
    return statistics.mean(run.best["value"] for run in runs)


def experiment(runs: Sequence[Run]) -> str:
    """What some runs were asked for as a file for `conf/experiment/`, over the experiment that they varied."""
    run = runs[0]
    defaults: list[Any] = [run.overrides["experiment"]]
    values = OmegaConf.create()
    for key, text in run.overrides.items():
        if key in ("experiment", *LEFT_OUT):
            continue
        if is_group(key):
            defaults.append({f"override /{key}": text})
        else:
            OmegaConf.update(values, key, value_of(f"{key}={text}"), force_add=True)
    where = run.folder if len(runs) == 1 else f"the mean of {len(runs)} runs"
    about = f"# The best of its sweep: {run.best['metric']} {mean(runs):.4f}, {where}."
    lines = ["# @package _global_", about, OmegaConf.to_yaml({"defaults": defaults}), OmegaConf.to_yaml(values)]
    return "\n".join(lines).replace("{}\n", "")
