"""The types of the keys that no class takes. A key is stated once, with its default, in conf/VERB.yaml."""

from collections.abc import Iterator, Mapping
from dataclasses import field, make_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.engine.config.compose import conf_folders
from lab.engine.config.signatures import parameters, wrong_arguments
from lab.engine.errors import fail

WITHOUT_EFFECT = {  # keys of a config that somebody wrote by mistake
    "experiment": "its settings have no effect; the first line of its YAML must be # @package _global_",
    "debug": "its settings have no effect; the first line of its YAML must be # @package _global_",
    "sweep": "an experiment cannot set it; set it on the command line of lab train -m",
    "launcher": "an experiment cannot set it; set it on the command line of lab train -m",
}


def check_settings(verb: str, cfg: DictConfig, types: type | None = None) -> None:
    """Raises UserError with a line for each of `wrong_settings`."""
    if problems := list(wrong_settings(verb, cfg, types)):
        fail(problems)


def wrong_settings(verb: str, cfg: DictConfig, types: type | None = None) -> Iterator[str]:
    """Yield a line for each key that conf/VERB.yaml does not have, and for each value of another type.

    A value has the type of its key's default; where that is null, the value is a string or null.

    Args:
        verb: such as `train`.
        cfg: of the verb.
        types: a dataclass with the types of those keys whose default does not show them. The type of a mapping is a
            dataclass, or another class that takes its keys.
    """
    path = next(folder / f"{verb}.yaml" for folder in conf_folders() if (folder / f"{verb}.yaml").exists())
    defaults: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # noqa: TID251 conf/ is trusted
    chosen = [entry for entry in defaults.pop("defaults", []) if isinstance(entry, dict)]
    defaults.pop("hydra", None)
    groups = {str(group): ... for entry in chosen for group in entry if str(group) not in WITHOUT_EFFECT}
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    yield from (f"{key}: {WITHOUT_EFFECT[key]}" for key in WITHOUT_EFFECT if values.pop(key, None) is not None)
    yield from _wrong("", f"lab {verb}", groups | defaults, values, types)


def _wrong(key: str, owner: str, defaults: Mapping[str, Any], values: Any, types: type | None) -> Iterator[str]:
    if not isinstance(values, dict):
        return  # the mapping around it reports the type
    hints = {name: taken.annotation for name, taken in parameters(types)[0].items()} if types else {}
    mappings = {name: default for name, default in defaults.items() if _is_mapping(default)}
    fields: list[Any] = []
    for name, default in defaults.items():
        if default is ...:  # a group: its option is checked against the class that it names
            fields.append((name, Any, field(default=None)))
        else:
            fields.append((name, _type(default) if name in mappings else hints.get(name, _type(default))))
    schema = make_dataclass("Settings", fields, kw_only=True)
    schema.__qualname__ = owner
    yield from wrong_arguments(key, schema, values)
    for name, default in mappings.items():
        yield from _wrong(f"{key}.{name}" if key else name, owner, default, values.get(name), hints.get(name))


def _is_mapping(default: Any) -> bool:
    return isinstance(default, dict) and bool(default) and "_target_" not in default


def _type(default: Any) -> Any:
    if default is None:
        return str | None
    if isinstance(default, dict):
        return Any if "_target_" in default else dict[str, Any]
    return type(default)
