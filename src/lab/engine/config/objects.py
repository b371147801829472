"""Overrides of objects, which are nodes with a `_target_` or null, such as `data.augment={flip: true}`.

Hydra merges a dictionary into the object, and refuses an argument that the YAML leaves out. Here a dictionary replaces
the object, and an argument can be added. The words of the command line stay as they are typed.
"""

from collections.abc import Sequence
from typing import Any, get_args

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

OPEN = ("callbacks", "task.metrics", "inputs")  # mappings with any keys

apply_as_hydra = ConfigLoaderImpl._apply_overrides_to_config


def replace_objects(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Apply overrides to a config in their order: a dictionary replaces the object, a new argument is added.

    A dictionary without a `_target_` keeps the class of the object that it replaces; if that is null, it gets the class
    that annotates the argument. `lab.engine.config.signatures` checks later whether the class takes the argument.
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
    """Let Hydra apply overrides with `replace_objects` wherever it composes a config: in verbs, jobs and help."""
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(replace_objects)  # type: ignore[method-assign]


def takes_more(node: DictConfig, key: str) -> bool:
    """Return whether a new key can be added to the node at `key`."""
    return key in OPEN or ("_target_" in node and "." in key)


def _is_object(holder: DictConfig, name: str) -> bool:
    node = holder._get_node(name, validate_access=False)
    return node is not None and (node._is_none() or (isinstance(node, DictConfig) and "_target_" in node))


def _target(holder: DictConfig, name: str) -> str | None:
    """The class of the object, or the class that annotates the argument, if a config may call it."""
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
        return None  # the check of the arguments reports it
    annotation = taken[name].annotation if name in taken else None
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    own = [kind for kind in kinds if is_own(kind.__module__)]
    return f"{own[0].__module__}.{own[0].__qualname__}" if own else None
