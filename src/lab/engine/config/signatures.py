"""The arguments that a class or function takes, and whether the values of a config fit them."""

import inspect
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from lab.engine.errors import unknown
from lab.engine.secrets import redacted

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Arguments:
    """Facts by the argument they fill.

    Args:
        values: a fact has its name, such as `num_classes`, if all features that state it agree, and always its name
            after that of its feature: `label_num_classes`. A qualified fact has only the latter: `image_std`.
        ambiguous: names with different values: name -> feature -> value.
    """

    values: dict[str, Any] = field(default_factory=dict)
    ambiguous: dict[str, dict[str, Any]] = field(default_factory=dict)


class HasArguments(Protocol):
    """Facts of data, as `lab.data.facts.Facts`."""

    def arguments(self, first: Collection[str] = ()) -> Arguments: ...


def parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that can be passed by name, and whether any name can.

    They include those of a base class if `**kwargs` is passed on to it.
    """
    found: dict[str, inspect.Parameter] = {}
    owners = (
        [vars(owner).get("__init__") for owner in inspect.getmro(function)] if inspect.isclass(function) else [function]
    )
    for owner in filter(None, owners):
        try:
            hints = get_type_hints(inspect.unwrap(owner), include_extras=True)
        except NameError:  # a name from an optional package that is not installed
            hints = {}
        own = inspect.signature(owner).parameters
        for name, p in own.items():
            if p.kind in NAMED and name != "self":
                found.setdefault(name, p.replace(annotation=hints.get(name, Any)))
        if not any(p.kind == p.VAR_KEYWORD for p in own.values()):
            return found, False
    return found, True


def wrong_arguments(key: str, function: Callable[..., Any], node: Any, facts: Collection[str] = ()) -> Iterator[str]:
    """Yield a line for each argument of a call that does not fit its signature. `facts` may fill missing ones."""
    takes, takes_any = parameters(function)
    given = {name: value for name, value in node.items() if not (name.startswith("_") and name.endswith("_"))}
    dot, colon = (f"{key}.", f"{key}: ") if key else ("", "")
    for name, value in given.items():
        if name in takes:
            yield from _wrong_type(f"{dot}{name}", value, takes[name])
        elif not takes_any:
            yield colon + unknown("argument" if "_target_" in node else "key", name, takes)
    if not node.get("_partial_"):
        supplied = {*facts} | {"net", "optimizer", "scheduler", "save_dir"} | set(given)
        own = inspect.signature(function).parameters.values()
        needed = [p.name for p in own if p.kind in NAMED and p.default is p.empty and p.name not in supplied]
        yield from (f"{dot}{name}: {function.__qualname__} requires it{_stated(facts)}" for name in needed)


def _stated(facts: Collection[str]) -> str:
    """The facts of the data, for the message about a missing argument. Facts named after their feature are omitted."""
    short = sorted(fact for fact in facts if not any(fact.endswith(f"_{other}") for other in facts))
    return f", and the data states no such fact, only {', '.join(short)}. Choose another net or task" if short else ""


def _wrong_type(key: str, value: Any, parameter: inspect.Parameter) -> Iterator[str]:
    """Compare a plain value with an annotation, as strictly as JSON would: no "8" for 8, but a list for a tuple."""
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if value is ... or (value is None and parameter.default is None):
        return
    if any("_target_" in child for child in (value, *nested) if isinstance(child, dict)):
        return  # an object, checked as a separate call
    try:
        adapter = TypeAdapter(parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
        adapter.validate_json(json.dumps(value, ensure_ascii=False).encode(errors="replace"))  # a path may not be UTF-8
    except (PydanticUserError, TypeError):
        return  # the annotation does not restrict plain values
    except ValidationError as error:
        shown = redacted(str(value))
        reasons = [e["msg"] for e in error.errors() if e["type"] not in ("needs_python_object", "is_instance_of")]
        if not reasons and not isinstance(value, dict | list):
            yield f"{key}={shown}: should be null, or an object with a _target_"
        if reasons:
            expected = " or ".join(dict.fromkeys(reason[0].lower() + reason[1:] for reason in reasons))
            yield f"{key}={shown}: {expected}".replace("input should", "should")
