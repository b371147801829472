"""Overrides of objects, such as `data.augment={flip: true}`: a config's node with a `_target_`, or null."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.config import compose, is_group
from lab.words import value_of, word

OPEN = ("callbacks", "task.metrics")  # mappings that take any name


def replaced(verb: str, words: Sequence[str]) -> list[str]:
    """The words, with those of objects as Hydra needs them: a dictionary replaces an object, and never merges with it.

    An object's argument that the config leaves out, such as `data.augment.crop=2`, is added; `check` knows whether the
    class takes it. A dictionary without a `_target_` is of the class that stands there, or that the argument is for.
    """
    plain = [given for given in words if "=" in given and given[0] not in "-+~" and not is_group(_key(given))]
    if not any("{" in given or _key(given).count(".") > 1 for given in plain):
        return list(words)
    try:
        cfg = compose(verb, [given for given in words if is_group(_key(given))])
    except (HydraException, OmegaConfBaseException):
        return list(words)  # the check of the command line says why
    return [each for given in words for each in (_as_needed(cfg, given) if given in plain else [given])]


def _as_needed(cfg: DictConfig, given: str) -> Iterator[str]:
    key = _key(given)
    parent, _, last = key.rpartition(".")
    holder = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else cfg
    if not isinstance(holder, DictConfig):
        yield given
        return
    value = value_of(given)
    if last not in holder:
        added = parent in OPEN or ("_target_" in holder and "." in parent)
        yield f"+{given}" if added else given
    elif isinstance(value, dict) and _is_object(holder[last]):
        if target := value.get("_target_") or _target(holder, last):
            value = {"_target_": target} | value
        yield f"~{key}"
        yield word(f"+{key}", value)
    else:
        yield given


def _is_object(node: Any) -> bool:
    return node is None or (isinstance(node, DictConfig) and "_target_" in node)


def _target(holder: DictConfig, name: str) -> str | None:
    """The class of what stands there, or the one of ours that the argument of this name is annotated with."""
    if isinstance(holder[name], DictConfig):
        return str(holder[name]["_target_"])
    if "_target_" not in holder:
        return None
    from lab.allow import locate
    from lab.check import parameters

    taken, _ = parameters(locate(str(holder["_target_"])))
    annotation = taken[name].annotation if name in taken else None
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    own = [kind for kind in kinds if kind.__module__.startswith("lab.")]
    return f"{own[0].__module__}.{own[0].__qualname__}" if own else None


def _key(given: str) -> str:
    return given.partition("=")[0]
