"""From the command line to a checked config. Until `check`, nothing heavy is imported."""

import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.errors import UserError

_PACKAGE = Path(__file__).parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"  # a wheel's, or a checkout's
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def fail(problems: Sequence[str]) -> NoReturn:
    raise UserError("\n".join(f"error: {problem}" for problem in problems))


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """The sentence for a name that is not among those it should be."""
    options = sorted(map(str, names))
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(options)}."
    return f"unknown {kind} {name}. {hint}"


def compose(verb: str, overrides: Sequence[str]) -> DictConfig:
    """The config that `lab VERB OVERRIDES…` runs with."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra_compose(verb, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
    if "name" in cfg:
        cfg.name = str(cfg.name)  # the experiment's: resolved while Hydra knows it
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return cfg


def check_command_line(verb: str, arguments: Sequence[str]) -> None:
    """Refuse overrides that name what is not there, all of them at once.

    Raises:
        UserError: a line for each problem, with the nearest name.
    """
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args(list(arguments))
    if args.hydra_help or args.shell_completion or args.config_name or args.config_path or args.config_dir:
        return
    problems, overrides = [], []
    for text in args.overrides:
        try:
            overrides.append(OverridesParser.create().parse_override(text))
        except HydraException as error:
            problems.append(_one_line(error))
    runs = not (args.help or args.cfg or args.info)
    if verb == "train" and runs and not any(o.key_or_group == "experiment" for o in overrides):
        raise UserError(_experiments())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        problems += _unknown_names(verb, overrides, args.multirun)
    if problems:
        fail(problems)


def _unknown_names(verb: str, overrides: Sequence[Override], multirun: bool) -> Iterator[str]:
    loader = GlobalHydra.instance().config_loader()
    groups, sound, values = loader.list_groups(""), [], []
    for override in overrides:
        name = override.key_or_group
        if override.is_sweep_override() and not multirun and not name.startswith("hydra"):
            yield f"{override.input_line}: several values are a sweep, which needs -m"
        elif name not in groups:
            (sound if name.startswith("hydra") else values).append(override)
        else:
            options = loader.get_group_options(name)
            wrong = [value for value in _values(override) if value not in options]
            yield from (f"{override.input_line}: {unknown(name, value, options)}" for value in wrong)
            if not wrong:
                sound.append(override)
    try:
        cfg = hydra_compose(verb, [_single(o) for o in sound])
    except (HydraException, OmegaConfBaseException) as error:
        yield _one_line(error)
        return
    for override in values:
        if not (override.is_add() or override.is_force_add()):
            problem = _unknown_key(cfg, override.key_or_group, groups)
            if problem:
                yield f"{override.input_line}: {problem}"
            else:
                sound.append(override)
    try:
        hydra_compose(verb, [_single(o) for o in sound])
    except (HydraException, OmegaConfBaseException) as error:
        yield _one_line(error)


def _values(override: Override) -> list[str]:
    """The options that a group override names; none for a glob, which names what there is."""
    if override.is_sweep_override():
        return list(map(str, override.sweep_string_iterator())) if override.is_choice_sweep() else []
    value = override.value()
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _single(override: Override) -> str:
    """An override as it stands in one job; the first, of a sweep's."""
    if not override.is_sweep_override() or override.key_or_group.startswith("hydra"):
        return str(override.input_line)
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    loader = GlobalHydra.instance().config_loader()
    first = next(iter(loader.get_group_options(override.key_or_group)), "null")
    return f"{override.get_key_element()}={first}"


def _unknown_key(cfg: DictConfig, key: str, groups: Sequence[str]) -> str | None:
    node: Any = cfg
    for i, part in enumerate(parts := key.split(".")):
        if not isinstance(node, DictConfig) or node._is_none():
            return f"{'.'.join(parts[:i])} has no keys here"
        if (child := node._get_node(part, validate_access=False)) is None:
            names = [*map(str, node), *(groups if i == 0 else [])]
            return unknown("key", part, names) + (f" (in {'.'.join(parts[:i])})" if i else "")
        node = child
    return None


def _experiments() -> str:
    lines = ["Say which experiment, for example: lab train experiment=digits", ""]
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        comments = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
        question = next((line for line in comments if not line.startswith("@package")), "")
        lines.append(f"  {path.stem:<16} {question}")
    return "\n".join(lines)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# What follows needs the signatures of the classes that a config names, and so imports them.


def check(cfg: DictConfig) -> None:
    """Refuse a training config that can't run on this machine: all that can be known before any data is read.

    Raises:
        UserError: a line for each problem.
    """
    problems = list(_unknown_roots(cfg))
    facts: set[str] = set()
    for key, node in _targets(cfg):
        try:
            target = _locate(str(node["_target_"]))
        except HydraException as error:
            problems.append(f"{key}._target_: {_one_line(error).removeprefix('Error getting class at ')}")
            continue
        facts |= set(getattr(getattr(target, "Facts", None), "__dataclass_fields__", ()))
        problems += _wrong_arguments(key, target, node, facts)
    problems += _unwritable(Path(cfg.log_dir))
    if not problems:
        problems = [*_refused("trainer", lambda: _try_trainer(cfg)), *_refused("optimizer", lambda: _try_optimizer(cfg))]
    if problems:
        fail(problems)


def _unknown_roots(cfg: DictConfig) -> Iterator[str]:
    known = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(known, DictConfig)
    groups = {str(next(iter(entry))) for entry in known.defaults if isinstance(entry, DictConfig)}
    names = ({str(key) for key in known} | groups) - {"hydra", "defaults"}
    yield from (unknown("key", str(key), names) for key in cfg if key not in names)
    yield from (f"monitor: {unknown('key', str(key), known.monitor)}" for key in cfg.monitor if key not in known.monitor)
    yield from (f"{group}: none is chosen; {group}=NAME" for group in ("data", "net") if not cfg[group])


def _targets(cfg: DictConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node that names a class, with its key; the data first, for it knows what nets and tasks are given."""
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)

    def walk(key: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(node, dict):
            if "_target_" in node:
                yield key, node
            for name, child in node.items():
                yield from walk(f"{key}.{name}" if key else str(name), child)
        elif isinstance(node, list):
            for i, child in enumerate(node):
                yield from walk(f"{key}[{i}]", child)

    yield from walk("data", tree.pop("data", None))
    yield from walk("", tree)


def _locate(name: str) -> Callable[..., Any]:
    from hydra.utils import get_object

    found = get_object(name)
    if not callable(found):
        raise HydraException(f"{name} is neither a class nor a function")
    return found


def _wrong_arguments(key: str, target: Callable[..., Any], node: dict[str, Any], facts: set[str]) -> Iterator[str]:
    parameters, takes_any = _parameters(target)
    given = {name: value for name, value in node.items() if not (name.startswith("_") and name.endswith("_"))}
    for name, value in given.items():
        if name in parameters:
            yield from _wrong_type(f"{key}.{name}", value, parameters[name])
        elif not takes_any:
            yield f"{key}: {unknown('argument', name, parameters)} ({target.__qualname__} takes no {name})"
    if not node.get("_partial_"):
        supplied = facts | {"net", "optimizer", "scheduler", "save_dir"} | set(given)
        own = [name for name, p in inspect.signature(target).parameters.items() if p.kind in NAMED and p.default is p.empty]
        yield from (f"{key}.{name}: {target.__qualname__} needs it" for name in own if name not in supplied)


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a callable, those of its base classes where it passes `**kwargs` on, and whether any
    other name is taken too."""
    parameters: dict[str, inspect.Parameter] = {}
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(target) and "__init__" not in vars(owner):
            continue
        function = owner.__init__ if inspect.isclass(owner) else owner  # type: ignore[misc]
        hints = get_type_hints(inspect.unwrap(function), include_extras=True)
        own = inspect.signature(function).parameters
        kinds = {p.kind for p in own.values()}
        for name, p in own.items():
            if p.kind in NAMED and name != "self":
                parameters.setdefault(name, p.replace(annotation=hints.get(name, Any)))
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return parameters, False
    return parameters, True


def _wrong_type(key: str, value: Any, parameter: inspect.Parameter) -> Iterator[str]:
    """Compare a plain value with an annotation, as strictly as JSON would: no "8" for 8, but a list for a tuple."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    if value is None and parameter.default is None or "_target_" in str(value):
        return
    try:
        adapter = TypeAdapter(parameter.annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
        adapter.validate_json(json.dumps(value))
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return  # an annotation that says nothing about plain values
    except ValidationError as error:
        reasons = [e["msg"] for e in error.errors() if "JsonOrPython" not in e["msg"] and "instance of" not in e["msg"]]
        if reasons:
            expected = " or ".join(dict.fromkeys(reason[0].lower() + reason[1:] for reason in reasons))
            yield f"{key}={value}: {expected}".replace("input should", "should")


def _unwritable(log_dir: Path) -> Iterator[str]:
    there = log_dir.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield f"log_dir={log_dir}: {there} is not a folder that can be written to"


def _refused(key: str, build: Callable[[], Any]) -> Iterator[str]:
    """What Lightning and torch themselves say against a value, of which they know best."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        build()
    except (HydraException, MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        cause = error.__cause__ or error
        yield f"{key}: {_one_line(cause)}"


def _try_trainer(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    instantiate(cfg.trainer, logger=False, enable_checkpointing=False)


def _try_optimizer(cfg: DictConfig) -> None:
    """One step's worth of objects, on a net of two parameters."""
    import torch
    from hydra.utils import instantiate

    optimizer = instantiate(cfg.optimizer)(torch.nn.Linear(2, 2).named_parameters())
    scheduler = instantiate(cfg.scheduler)
    takes = inspect.signature(scheduler).parameters
    scheduler(optimizer, **({"total_steps": 100} if "total_steps" in takes else {}))


def quiet() -> None:
    """Silence what Lightning says at every start and nobody can act on."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for noise in (
        "The '.*_dataloader' does not have many workers",
        "GPU available but not used",
        "The number of training batches",
        "`isinstance\\(treespec, LeafSpec\\)`",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory .* exists",
        "Starting from v1.9.0, `tensorboardX`",
        "Trying to infer the `batch_size`",
    ):
        warnings.filterwarnings("ignore", noise)
