"""`best.yaml` of a sweep: its best combination of overrides as a file for `conf/experiment/`."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lab.engine.config.compose import compose_config
from lab.engine.config.sweep_overrides import is_group
from lab.engine.config.words import value_of
from lab.engine.config_file import plain
from lab.engine.display import command, say
from lab.engine.files import read_json
from lab.engine.folder import STAMP
from lab.engine.keys import key_of
from lab.engine.runs.index import RunInfo, read_runs
from lab.sweep.repeats import REPEATS

FOLDERS = ("run", "log_dir")
EXTRA = ("debug",)  # the group that is composed after an experiment
LEFT_OUT = (*REPEATS, "seeds", "cv")


def write_best(folder: Path, mode: str) -> None:
    """Write `best.yaml`: the combination with the best mean over seeds and folds, of all starts of the sweep.

    Args:
        folder: the sweep's folder.
        mode: "max" if a larger value of the monitored metric is better, or "min".
    """
    groups: dict[str, list[RunInfo]] = {}
    for run in read_runs(folder):
        if run.status == "finished":
            groups.setdefault(
                str({key: value for key, value in run.overrides.items() if key not in LEFT_OUT}), []
            ).append(run)
    if groups:
        most = max(map(len, groups.values()))
        complete = [runs for runs in groups.values() if len(runs) == most]  # without groups in which a run failed
        best = (max if mode == "max" else min)(complete, key=mean)
        words = read_json(folder / best[0].folder / STAMP, "overrides")["overrides"]
        (folder / "best.yaml").write_text(experiment(best, words), encoding="utf-8")
        say(f"best as an experiment: {command('cp', str(folder / 'best.yaml'), 'conf/experiment/NAME.yaml')}")


def mean(runs: Sequence[RunInfo]) -> float:
    return statistics.mean(run.best["value"] for run in runs)


def experiment(runs: Sequence[RunInfo], words: Sequence[str]) -> str:
    """The config of some runs as the text of a file for `conf/experiment/`.

    The file builds on the experiment that the sweep varied. A YAML file can only add keys to a config. If the overrides
    removed keys (a dictionary that replaces an object does), the file builds on the config groups instead, and holds
    the whole group that lost keys.

    Args:
        runs: runs that differ in seed and fold only.
        words: the overrides of one of them.
    """
    overrides = [w for w in words if key_of(w) not in (*LEFT_OUT, *FOLDERS)]
    wanted = _plain(overrides)
    choices = {key_of(w): value_of(w) for w in overrides if is_group(key_of(w)) and key_of(w) not in EXTRA}
    defaults: list[Any] = [choices.pop("experiment")]
    base = _plain([f"experiment={defaults[0]}", *(f"{group}={option}" for group, option in choices.items())])
    if any(_lost(base, wanted)):
        _plain(overrides)
        chosen = HydraConfig.get().runtime.choices.items()
        choices = {g: option for g, option in chosen if "/" not in g and g not in ("experiment", *EXTRA)}
        lost = {key for key, _ in _lost(_plain(_words(choices)), wanted)}
        choices |= dict.fromkeys(lost & choices.keys())
        defaults, base = [], _plain(_words(choices))
    if not any(key_of(word) == "name" for word in overrides):
        del wanted["name"]
    defaults += [{f"override /{group}": option} for group, option in choices.items()]
    run = runs[0]
    source = run.folder if len(runs) == 1 else f"the mean of {len(runs)} runs"
    about = f"# The best of its sweep: {run.best['metric']} {mean(runs):.4f}, {source}."
    values = OmegaConf.create(_added(base, wanted))
    lines = ["# @package _global_", about, OmegaConf.to_yaml({"defaults": defaults}), OmegaConf.to_yaml(values)]
    return "\n".join(lines).replace("{}\n", "")


def _words(choices: dict[str, Any]) -> list[str]:
    return [f"{group}={option}" if option else f"~{group}" for group, option in choices.items()]


def _plain(words: Sequence[str]) -> dict[str, Any]:
    return plain(compose_config("train", words))


def _lost(old: dict[str, Any], new: dict[str, Any], top: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys that `old` has and `new` lacks, as (top-level key, key)."""
    for key, value in old.items():
        if key not in new:
            yield top or key, key
        elif isinstance(value, dict) and isinstance(new[key], dict):
            yield from _lost(value, new[key], top or key)


def _added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The entries that turn `old` into `new` when they are merged into it."""
    added = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if more := _added(before, value):
                added[key] = more
        elif key not in old or value != before or type(value) is not type(before):
            added[key] = value
    return added
