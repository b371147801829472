import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lab.engine.config.compose import compose_config
from lab.engine.config.sweep_overrides import is_group
from lab.engine.config.words import value_of
from lab.engine.display import command, say
from lab.engine.folder import STAMP, plain, read_json
from lab.engine.keys import key_of
from lab.engine.runs.index import Run, read
from lab.sweep.repeats import REPEATS

PLACES = ("run", "log_dir")
EXTRA = ("debug",)  # the group that is composed after an experiment
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
        words = read_json(place / best[0].folder / STAMP, "overrides")["overrides"]
        (place / "best.yaml").write_text(experiment(best, words), encoding="utf-8")
        say(f"as an experiment: {command('cp', str(place / 'best.yaml'), 'conf/experiment/NAME.yaml')}")


def mean(runs: Sequence[Run]) -> float:
    return statistics.mean(run.best["value"] for run in runs)


def experiment(runs: Sequence[Run], words: Sequence[str]) -> str:
    """The config that some runs had as a file for `conf/experiment/`: what they share of their words decides it.

    The file stands over the experiment that was varied. A file can only add to a config: where the words took keys
    away, as a dictionary does that replaces an object, it stands over the groups alone, or holds the whole group.
    """
    asked = [w for w in words if key_of(w) not in (*LEFT_OUT, *PLACES)]
    wanted = _plain(asked)
    choices = {key_of(w): value_of(w) for w in asked if is_group(key_of(w)) and key_of(w) not in EXTRA}
    defaults: list[Any] = [choices.pop("experiment")]
    base = _plain([f"experiment={defaults[0]}", *(f"{group}={option}" for group, option in choices.items())])
    if any(_lost(base, wanted)):
        _plain(asked)
        chosen = HydraConfig.get().runtime.choices.items()
        choices = {g: option for g, option in chosen if "/" not in g and g not in ("experiment", *EXTRA)}
        lost = {key for key, _ in _lost(_plain(_words(choices)), wanted)}
        choices |= dict.fromkeys(lost & choices.keys())
        defaults, base = [], _plain(_words(choices))
    if not any(key_of(word) == "name" for word in asked):
        del wanted["name"]
    defaults += [{f"override /{group}": option} for group, option in choices.items()]
    run = runs[0]
    where = run.folder if len(runs) == 1 else f"the mean of {len(runs)} runs"
    about = f"# The best of its sweep: {run.best['metric']} {mean(runs):.4f}, {where}."
    values = OmegaConf.create(_added(base, wanted))
    lines = ["# @package _global_", about, OmegaConf.to_yaml({"defaults": defaults}), OmegaConf.to_yaml(values)]
    return "\n".join(lines).replace("{}\n", "")


def _words(choices: dict[str, Any]) -> list[str]:
    return [f"{group}={option}" if option else f"~{group}" for group, option in choices.items()]


def _plain(words: Sequence[str]) -> dict[str, Any]:
    return plain(compose_config("train", words))


def _lost(old: dict[str, Any], new: dict[str, Any], top: str = "") -> Iterator[tuple[str, str]]:
    """The keys that a mapping has and another lacks, each after the first of the keys that lead to it."""
    for key, value in old.items():
        if key not in new:
            yield top or key, key
        elif isinstance(value, dict) and isinstance(new[key], dict):
            yield from _lost(value, new[key], top or key)


def _added(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that turn the old mapping into the new one when they are merged into it."""
    added = {}
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            if more := _added(there, value):
                added[key] = more
        elif key not in old or value != there or type(value) is not type(there):
            added[key] = value
    return added
