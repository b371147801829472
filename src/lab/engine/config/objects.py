"""Overrides of objects, such as `data.augment={flip: true}`: a config's node with a `_target_`, or null.

Hydra merges a dictionary into the object and refuses an argument that the config leaves out. The words of a command
line stay as they are typed; what they do to a config is changed here, in the one place where Hydra applies them.
"""

from collections.abc import Sequence
from typing import Any, get_args

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

OPEN = ("callbacks", "task.metrics")  # mappings that take any name

apply_as_hydra = ConfigLoaderImpl._apply_overrides_to_config


def replace_objects(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Apply overrides to a config in their order: a dictionary replaces the object, a new argument is added.

    A dictionary without a `_target_` is of the class that stands there, or that the argument is for.
    `lab.engine.config.signatures` knows whether a class takes an argument.
    """
    for override in overrides:
        key, plain = override.key_or_group, override.type == OverrideType.CHANGE and override.package is None
        parent, _, last = key.rpartition(".")
        holder = OmegaConf.select(cfg, parent, throw_on_resolution_failure=False) if parent else cfg
        value: Any = override.value()
        if not (plain and isinstance(holder, DictConfig)) or "[" in key:
            apply_as_hydra([override], cfg)
        elif isinstance(value, dict) and key in OPEN:
            OmegaConf.update(cfg, key, value, merge=False)
        elif isinstance(value, dict) and (takes_more(holder, parent) or _is_object(holder, last)):
            target = value.get("_target_") or _target(holder, last)
            OmegaConf.update(cfg, key, ({"_target_": target} if target else {}) | value, merge=False, force_add=True)
        elif last not in holder and takes_more(holder, parent):
            OmegaConf.update(cfg, key, value, force_add=True)
        else:
            apply_as_hydra([override], cfg)


def install() -> None:
    """Have Hydra apply overrides so, wherever it composes a config: in `lab`, in a sweep's jobs, in its help."""
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(replace_objects)  # type: ignore[method-assign]


def takes_more(node: DictConfig, key: str) -> bool:
    """Whether a key that the node at `key` does not have yet can be set."""
    return key in OPEN or ("_target_" in node and "." in key)


def _is_object(holder: DictConfig, name: str) -> bool:
    node = holder._get_node(name, validate_access=False)
    return node is not None and (node._is_none() or (isinstance(node, DictConfig) and "_target_" in node))


def _target(holder: DictConfig, name: str) -> str | None:
    """The class of what stands there, or the one that its argument is annotated with, if a config may call it."""
    there = holder._get_node(name, validate_access=False)
    if isinstance(there, DictConfig) and not there._is_none():
        return there.get("_target_")
    if "_target_" not in holder:
        return None
    from lab.engine.config.allow import is_own, locate
    from lab.engine.config.signatures import parameters

    try:
        taken, _ = parameters(locate(str(holder["_target_"])))
    except ImportError:
        return None  # which is reported where the arguments are checked
    annotation = taken[name].annotation if name in taken else None
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    own = [kind for kind in kinds if is_own(kind.__module__)]
    return f"{own[0].__module__}.{own[0].__qualname__}" if own else None
