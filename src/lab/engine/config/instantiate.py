"""Instantiate what a config names. Arguments that the config leaves out are filled with facts of the data."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from lab.engine.config.allow import locate, refuse_calls
from lab.engine.config.signatures import Arguments, HasArguments, parameters
from lab.engine.errors import UserError, fail, one_line

MOST_SHOWN = 40  # characters of a fact in a message


class InstantiationError(Exception):
    """An object could not be made, for another reason than a wrong value; the cause is the error of its class."""


def instantiate(node: Any, facts: HasArguments | None = None, /, *, none_is_unset: bool = False, **given: Any) -> Any:
    """Call the `_target_` of a node, after the nodes in it; a node without one becomes a dictionary or a list.

    As Hydra's `instantiate` with `_convert_: all`, except that only allowed names are called and that facts fill
    arguments. `_partial_` and `_recursive_` mean the same.

    A fact fills an argument of its name that has no default. No node sets an argument that is a fact. In a node whose
    key is the name of a feature, the facts of this feature come first. Facts are not resolved: a class may have a name
    such as `${x}`.

    Args:
        node: of the config, or a dictionary.
        facts: of the data.
        none_is_unset: an argument whose default is None is filled as well; torchmetrics needs it.
        given: arguments of the outermost call, where it takes them; they replace those of the node.

    Raises:
        UserError: the config may not call it; it states a fact of the data; a fact is ambiguous; or the call refuses.
    """
    node = OmegaConf.create(node) if isinstance(node, dict) else node
    key = refuse_calls(node) or (node.get("_target_", "") if isinstance(node, DictConfig) else "")
    return _Builder(facts, none_is_unset).build(key, node, (), given)


class _Builder:
    def __init__(self, facts: HasArguments | None, none_is_unset: bool) -> None:
        self.facts, self.none_is_unset = facts, none_is_unset

    def build(self, key: str, node: Any, path: tuple[str, ...], given: Mapping[str, Any]) -> Any:
        """The object of a node. `path` has the keys of the node and of those around it, the innermost first."""
        if isinstance(node, ListConfig):
            return [self.build(f"{key}[{i}]", child, path, {}) for i, child in enumerate(node)]
        if not isinstance(node, DictConfig):
            return node
        names: list[Any] = [name for name in node if not _is_special(str(name))]
        if "_target_" not in node:
            return {name: self.build(f"{key}.{name}", node[name], (name, *path), {}) for name in names}
        function = locate(node["_target_"])
        takes, takes_any = parameters(function)
        given = {name: value for name, value in given.items() if takes_any or name in takes}
        filled = self._filled(key, function, node, path, given)
        own = [name for name in names if name not in given]
        if node.get("_recursive_", True):
            made = {name: self.build(f"{key}.{name}", node[name], (name, *path), {}) for name in own}
        else:
            made = {name: _plain(node[name]) for name in own}
        return _called(key, function, made | filled | given, bool(node.get("_partial_")))

    def _filled(
        self,
        key: str,
        function: Callable[..., Any],
        node: DictConfig,
        path: tuple[str, ...],
        given: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The facts for the arguments that a call requires and is not given."""
        stated = self.facts.arguments(path) if self.facts else Arguments()
        needed = [name for name in required(function, self.none_is_unset) if name not in given]
        problems = [_ambiguous(f"{key}.{n}", n, stated.ambiguous[n]) for n in needed if n in stated.ambiguous]
        problems += [
            f"{key}.{name}: the data states it ({_short(stated.values[name])}); leave it out{_so_that(name, needed)}."
            for name in map(str, node)
            if name in stated.values and name not in given
        ]
        if problems:
            fail(problems)
        return {name: stated.values[name] for name in needed if name in stated.values}


def required(function: Callable[..., Any], none_is_unset: bool = False) -> Iterator[str]:
    """Yield the arguments of a call that have no default, those of base classes included."""
    takes = parameters(function)[0] | dict(inspect.signature(function).parameters)  # a class may define `__new__`
    for name, parameter in takes.items():
        if parameter.default is parameter.empty or (none_is_unset and parameter.default is None):
            yield name


def _called(key: str, function: Callable[..., Any], arguments: dict[str, Any], is_partial: bool) -> Any:
    try:
        return partial(function, **arguments) if is_partial else function(**arguments)
    except UserError:
        raise
    except (ValueError, OSError) as error:  # a wrong value, or a missing file
        fail([f"{key}: {one_line(error)}"])
    except Exception as error:
        raise InstantiationError(f"{key}: {one_line(error)}") from error


def _so_that(name: str, needed: Collection[str]) -> str:
    return "" if name in needed else "; it is filled where the class has no default"


def _ambiguous(key: str, name: str, stated: Mapping[str, Any]) -> str:
    values = ", ".join(f"{feature} states {_short(value)}" for feature, value in stated.items())
    names = " or ".join(f"{feature}_{name}" for feature in stated)
    return f"{key}: {values}; name the argument {names}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _is_special(name: str) -> bool:
    """Whether it is Hydra's, such as `_target_`."""
    return name.startswith("_") and name.endswith("_")
