from collections.abc import Sequence
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


def is_repeated(cfg: DictConfig) -> bool:
    """Whether a config stands for several runs: of folds that are not said, of seeds."""
    return "cv" in cfg and (cfg.seeds is not None or (cfg.cv is not None and cfg.fold is None))


def parsed(words: Sequence[str]) -> list[Override]:
    """Hydra's own reading of the command line, globs included."""
    with composing():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def _values(override: Override) -> list[str]:
    """The options that a group override names."""
    if override.is_sweep_override():
        return list(map(str, override.sweep_string_iterator()))
    value = override.value()
    return [str(option) for option in (value if isinstance(value, list) else [value]) if option is not None]


def single(override: Override) -> str:
    """An override as it stands in one job; the first, of a sweep's."""
    if not override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return str(override.input_line)
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={first}"


def first(overrides: Sequence[Override], verb: str = "train") -> list[str]:
    """The words of a sweep's first job, in the order in which they were typed."""
    varied = [single(o) for o in overrides if o.is_sweep_override() and not is_group(o.key_or_group)]
    words = [single(o) for o in overrides]
    useful = fitting([word for word in words if word not in varied], varied, verb)
    return [word for word in words if word not in varied or word in useful]


def fitting(words: Sequence[str], varied: Sequence[str], verb: str = "train") -> list[str]:
    """Those words of what a sweep varies whose keys a job with these words has: `net.widths` is none of every net's."""
    if not varied:
        return []
    try:
        cfg = _composed(verb, tuple(words))
    except (HydraException, OmegaConfBaseException):
        return list(varied)  # what can't be composed is said by its job, and stops no other
    return [word for word in varied if word[0] == "+" or _unknown_key(cfg, key_of(word), []) is None]


@cache
def _composed(verb: str, words: tuple[str, ...]) -> DictConfig:
    return compose_config(verb, words)


def is_group(key: str) -> bool:
    return any((folder / key).is_dir() for folder in conf_folders())


def _unknown_key(cfg: DictConfig, key: str, groups: Sequence[str]) -> str | None:
    node: Any = cfg
    for i, part in enumerate(parts := key.split(".")):
        if not isinstance(node, DictConfig) or node._is_none():
            return f"{'.'.join(parts[:i])} has no keys here"
        if (child := node._get_node(part, validate_access=False)) is None:
            if i == len(parts) - 1 and objects.takes_more(node, ".".join(parts[:i])):
                return None
            if i == 0 and part in groups:
                return f"there is no {part} here. There are: {', '.join(sorted(map(str, node)))}."
            names = [*map(str, node), *(groups if i == 0 else [])]
            return unknown("key", part, names) + (f" (in {'.'.join(parts[:i])})" if i else "")
        node = child
    return None
