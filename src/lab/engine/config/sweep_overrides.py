"""Overrides with several values, such as `optimizer.lr=0.1,0.2`, and the runs that they stand for."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config import objects
from lab.engine.config.compose import compose_config, composing, conf_folders
from lab.engine.errors import unknown
from lab.engine.keys import key_of

SPECIAL = {"_target_", "_partial_", "_recursive_", "_convert_"}  # keys of Hydra in the config of an object
GROUPS = ("sweep", "launcher")  # in conf/sweep.yaml; the config of a run has neither


def is_repeated(cfg: DictConfig) -> bool:
    """Return whether a config stands for several runs: all folds of `cv`, or several seeds."""
    return "cv" in cfg and (cfg.seeds is not None or (cfg.cv is not None and cfg.fold is None))


def is_group(key: str) -> bool:
    """Return whether a key chooses an option of a config group."""
    return any((folder / key).is_dir() for folder in conf_folders())


def sets_sweep(override: Override) -> bool:
    """Return whether an override sets the sweep or the launcher, which no run's config has."""
    return override.key_or_group.partition(".")[0] in GROUPS


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Parse the words of a command line as Hydra does; a glob finds the options of its group."""
    with composing():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def chosen_options(override: Override) -> list[str]:
    """The options that the override of a group names."""
    if override.is_sweep_override():
        return list(map(str, override.sweep_string_iterator()))
    value = override.value()
    return [str(option) for option in (value if isinstance(value, list) else [value]) if option is not None]


def with_first_value(override: Override) -> str:
    """An override as a word for one run: with the first of several values."""
    if not override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return str(override.input_line)
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={first}"


def first_job(overrides: Sequence[Override], config: str = "train") -> list[str]:
    """The words of a sweep's first job, in the order in which they were typed.

    Args:
        overrides: of the sweep.
        config: to compose: train, or sweep, where the overrides set the sweep too.
    """
    varied = [with_first_value(o) for o in overrides if o.is_sweep_override() and not is_group(o.key_or_group)]
    words = [with_first_value(o) for o in overrides]
    known = with_known_keys(varied, [word for word in words if word not in varied], config)
    return [word for word in words if word not in varied or word in known]


def with_known_keys(varied: Sequence[str], words: Sequence[str], config: str = "train") -> list[str]:
    """Return the varied words whose keys the config of the other words has: not every net has `net.widths`."""
    if not varied:
        return []
    try:
        cfg = _composed(config, tuple(words))
    except (HydraException, OmegaConfBaseException):
        return list(varied)  # the job reports the error, and the other jobs are run
    return [word for word in varied if word[0] == "+" or unknown_key(cfg, key_of(word)) is None]


@cache
def _composed(config: str, words: tuple[str, ...]) -> DictConfig:
    return compose_config(config, words)


def unknown_key(cfg: DictConfig, key: str, groups: Sequence[str] = ()) -> str | None:
    """An error if a config has no such key and takes none, with the nearest of its keys and `groups`."""
    node: Any = cfg
    for i, part in enumerate(parts := key.split(".")):
        if not isinstance(node, DictConfig) or node._is_none():
            return f"{'.'.join(parts[:i])} has no keys here"
        if (child := node._get_node(part, validate_access=False)) is None:
            if i == len(parts) - 1 and objects.takes_more(node, ".".join(parts[:i])):
                return None
            if i == 0 and part in groups:
                return f"there is no {part} here. There are: {', '.join(sorted(map(str, node)))}."
            names = {*map(str, node), *groups} if i == 0 else {*map(str, node)} - SPECIAL
            inner = [] if i else list(_inner_keys(cfg))
            return unknown("key", part, names, inner) + (f" (in {'.'.join(parts[:i])})" if i else "")
        node = child
    return None


def _inner_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys below the top of a config, such as `optimizer.lr`."""
    for name in map(str, node):
        child = node._get_node(name, validate_access=False)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _inner_keys(child, f"{prefix}{name}.")
        elif prefix and name not in SPECIAL:
            yield f"{prefix}{name}"
