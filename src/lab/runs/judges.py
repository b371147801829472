"""The judges of a config: the finished runs that `task.judge` and `task.teacher` name, and whether they fit the run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lab.data.base import Data
from lab.data.facts import inputs_of
from lab.engine.config.user_paths import JUDGES
from lab.engine.display import say
from lab.engine.errors import UserError
from lab.engine.files import expanded, read_json
from lab.engine.folder import BEST, STAMP, check_finished
from lab.engine.runs.checkpoints import damage, stored_digest
from lab.features.base import Feature
from lab.tasks.judge import CHANGED, EXPECTED, Judge


def judges(cfg: DictConfig) -> dict[str, Path]:
    """The folders of a config's judges, by key."""
    folders = {key: cfg.task.get(key.rpartition(".")[2]) for key in JUDGES}
    return {key: expanded(value).absolute() for key, value in folders.items() if value and isinstance(value, str)}


def fingerprints(cfg: DictConfig) -> dict[str, str]:
    """The fingerprints of the judges' weights, by key, for a run's stamp."""
    return {key: stored_digest(folder / BEST) for key, folder in judges(cfg).items()}


def wrong_judges(cfg: DictConfig, run: Path | None = None) -> Iterator[str]:
    """Yield a line for each judge that is not a finished run, or whose weights changed since the run was started.

    Args:
        cfg: the config of the run.
        run: the folder of the run; None for a new run.
    """
    stamped = _stamped(run)
    for key, folder in judges(cfg).items():
        try:
            check_finished(folder)
        except UserError as error:
            yield f"{key}: {str(error).removeprefix('error: ')}"
            continue
        if problem := damage(folder / BEST):
            yield f"{key}: {folder / BEST} {problem}"
        elif stamped.get(key, current := stored_digest(folder / BEST)) != current:
            yield f"{key}={folder}: {CHANGED}"


def expect_weights(cfg: DictConfig, run: Path | None) -> None:
    """Fix the weights of every `Judge` that is made from now on: those with which the run was started.

    Args:
        cfg: the config of the run.
        run: the folder of the run. A new run has no stamp yet; the judges' current weights are fixed.
    """
    stamped = _stamped(run)
    for key, folder in judges(cfg).items():
        current = stored_digest(folder / BEST) if (folder / BEST).is_file() else None
        EXPECTED[folder] = stamped.get(key) or current


def check_inputs(cfg: DictConfig, data: Data) -> None:
    """Refuse judges whose inputs this data does not have. Warn if only statistics, such as means, differ.

    Raises:
        UserError: a line for each judge.
    """
    problems, features = [], data.facts.features
    for key, folder in judges(cfg).items():
        judge = Judge(folder)
        inputs = inputs_of(judge.facts.features, judge.input_entries)
        if differences := list(_differences(inputs, features)):
            problems.append(f"error: {key}={folder}: its inputs do not fit this data: {', '.join(differences)}.")
        elif statistics := list(_other_statistics(inputs, features)):
            names = " and ".join(statistics)
            say(f"warning: {key}={folder}: its {names} differ from this data's; pass it batches of Judge.prepare.")
    if problems:
        raise UserError(*problems)


def _differences(inputs: Mapping[str, Feature], features: Mapping[str, Feature]) -> Iterator[str]:
    """Yield what the data lacks of a judge's inputs, and the facts that a net depends on and that differ."""
    for name, feature in inputs.items():
        if name not in features:
            yield f"{name} is missing"
            continue
        facts, here = feature.facts(), features[name].facts()
        for fact in feature.changes(features[name]) if type(feature) is type(features[name]) else ():
            yield f"{fact} is {_short(facts[fact])} in the judge, {_short(here[fact])} here"
        if type(feature) is not type(features[name]):
            yield f"{name} is of another type"


def _other_statistics(inputs: Mapping[str, Feature], features: Mapping[str, Feature]) -> Iterator[str]:
    """Yield the other facts that differ, such as `image_mean`."""
    for name, feature in inputs.items():
        here = features[name].facts()
        yield from (f"{name}_{fact}" for fact, value in feature.facts().items() if here[fact] != value)


def _stamped(run: Path | None) -> dict[str, str]:
    """The fingerprints in the stamp of a run; {} if there is none yet."""
    known: dict[str, str] = read_json(run / STAMP)["judges"] if run and (run / STAMP).exists() else {}
    return known


def _short(value: Any) -> str:
    return text if len(text := str(value)) < 30 else f"{text[:20]}…"
