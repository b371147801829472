"""The classes and functions that a config may call. A `_target_` is checked by its name before anything is imported.

Only this module imports what a config names, and only `lab.engine.config.instantiate` calls it.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.engine.config.output_paths import wrong_output_path
from lab.engine.config.packages import OWN_PACKAGE, RESERVED, announce, has_module, owner, packages
from lab.engine.config_file import read_unchecked_config
from lab.engine.errors import fail, one_line, unknown

LAB = Path(__file__).parents[2]

# The modules of lab whose public classes and functions a config may call; `*` is any module below. The modules of the
# user's project and of installed packages are allowed as well: see `project.py` and `packages.py`.
MODULES = (
    "lab.callbacks.*",
    "lab.data.*",
    "lab.features.*",
    "lab.nets.*",
    "lab.tasks.*",
    "lab.optim",
    "lab.sweep.grid",
    "lab.sweep.pool",
    "lab.sweep.slurm",
    "lab.sweep.study",
)
MACHINERY = ("lab.tasks.added_metrics", "lab.tasks.judge", "lab.tasks.optimizers")  # of these rooms, not for configs

# The names of classes of other packages, and the modules that must define them. Nothing else of torch is allowed:
# `torch.load` and `torch.hub.load` execute code from files.
CLASSES = {
    r"torch\.optim(\.lr_scheduler)?\.[A-Z]\w*": "torch.optim.",
    r"torch\.nn\.[A-Z]\w*": "torch.nn.modules.",
    r"lightning(\.pytorch)?\.Trainer": "lightning.pytorch.trainer.",
    r"lightning\.pytorch\.(callbacks|loggers|profilers|strategies)\.[A-Z]\w*": "lightning.pytorch.",
    r"optuna\.(samplers|pruners)\.[A-Z]\w*": "optuna.",
    r"torchmetrics(\.(?!functional\.|utilities\.)[a-z]+)?\.[A-Z]\w*": "torchmetrics.",
    r"torchvision\.transforms\.v2\.[A-Z]\w*": "torchvision.transforms.v2.",
}
GROUPS = {  # the keys that may hold lab's objects; "task." is inside a task. A user's objects may be anywhere
    "lab.callbacks.": ("callbacks",), "lab.data.": ("data",), "lab.features.": ("data", "task."),
    "lab.nets.": ("net", "task."), "lab.tasks.": ("task",),
    "lab.sweep.": ("sweep", "launcher"), "lightning.Trainer": ("trainer",),
    "lightning.pytorch.Trainer": ("trainer",),
}  # fmt: skip
REFUSED = (
    "a config may not call it; a package of yours has to be declared by a project's pyproject.toml, or by an entry"
    " point in the group lab.packages"
)


def locate(name: str) -> Callable[..., Any]:
    """The class or function of a `_target_`.

    Raises:
        ImportError: a config may not call it, or it does not exist.
    """
    home = _home(name)
    if home is None:
        raise ImportError(REFUSED)
    module_name, _, last = name.rpartition(".")
    announce(module_name)
    module = import_module(module_name)
    if not hasattr(module, last):
        raise ImportError(f"{unknown('name', last, [n for n in vars(module) if n[0] != '_'])} (in {module_name})")
    found = getattr(module, last)
    own = home == module_name
    fitting = inspect.isclass(found) or (own and inspect.isfunction(found))
    defined = found.__module__ == home if fitting and own else fitting and f"{found.__module__}.".startswith(home)
    if not defined:
        raise ImportError(f"{REFUSED} ({module_name} does not define it)")
    return found


def refuse(cfg: Any, key: str = "", strict: bool = False) -> None:
    """Refuse a config, or its part at `key`, that names something that it may not call. Nothing is imported.

    References are resolved. If one cannot be resolved, it is skipped; with `strict`, its error is raised.

    Raises:
        UserError: a line for each problem.
    """
    leaves = list(_leaves(key, cfg, strict))
    missing = {key: package for key, value, shown in leaves if shown and (package := _missing(key, value))}
    problems = [problem for leaf in leaves if leaf[0] not in missing and (problem := _wrong(*leaf))]
    for package in dict.fromkeys(missing.values()):
        keys = ", ".join(key for key, other in missing.items() if other == package)
        problems.append(f"{keys}: the package {package} is not installed here. {OWN_PACKAGE}")
    if not strict:
        problems += [problem for key, value, _ in leaves if (problem := wrong_output_path(key, value))]
    if problems:
        fail(problems)


def refuse_calls(node: Any) -> str:
    """Refuse a config, or a part of one, that names something forbidden or missing. Return its key.

    Raises:
        UserError: a line for each problem.
    """
    at = str(node._get_full_key(None)) if OmegaConf.is_config(node) else ""
    refuse(node, at, strict=True)
    for key, name, shown in _leaves(at, node, strict=True):
        if key.endswith("_target_"):
            try:
                locate(name)
            except ImportError as error:
                fail([f"{key}{shown}: {one_line(error)}"])
    return at


def read_config(folder: Path) -> DictConfig:
    """The config in the folder of a run, which may come from somebody else.

    Raises:
        UserError: it is damaged, or names something that a config may not call.
    """
    cfg = read_unchecked_config(folder)
    refuse(cfg)
    return cfg


def is_own(module: str) -> bool:
    """Return whether a config may call the classes of a module, because lab, the project or a package contains it.

    Nothing is imported: a file or a folder must have this name.
    """
    if module in MACHINERY:
        return False
    for pattern in MODULES:
        room, star, _ = pattern.partition("*")
        if module == pattern or (star and module.startswith(room) and has_module((LAB,), module.partition(".")[2])):
            return True
    return owner(module) is not None


def _home(name: str) -> str | None:
    """The module that must define this name; with a dot at the end, any module below it. None if it is refused."""
    module, _, last = name.rpartition(".")
    if last.isidentifier() and last[0] != "_" and is_own(module):
        return module
    return next((home for pattern, home in CLASSES.items() if re.fullmatch(pattern, name)), None)


def _missing(key: str, value: Any) -> str | None:
    """The package of a `_target_`, if it can't be imported: a run may be another project's."""
    if key.rpartition(".")[2] != "_target_" or not isinstance(value, str) or _home(value):
        return None
    package, dot, _ = value.partition(".")
    if not dot or not package.isidentifier() or package in RESERVED or package in packages():
        return None
    return package if PathFinder.find_spec(package) is None else None  # no hooks: those of setuptools change modules


def _wrong(key: str, value: Any, shown: str) -> str | None:
    last = key.rpartition(".")[2]
    if last == "_target_" and not (isinstance(value, str) and _home(value)):
        return f"{key}{shown}: {REFUSED}"
    if last == "_target_":
        allowed = next((groups for own, groups in GROUPS.items() if value.startswith(own)), None)
        place = key.removesuffix("._target_")
        fits = (place.startswith(at) if at.endswith(".") else place.split(".")[0] == at for at in allowed or ())
        if allowed and place != "_target_" and not any(fits):
            return f"{key}{shown}: it belongs under {allowed[0]}"
    if last == "_args_":
        return f"{key}: give the arguments by name"
    if last != "_target_" and isinstance(value, str) and "${" in value:
        return f"{key}: ${{ is not allowed here"
    return None


def _leaves(key: str, node: Any, strict: bool, hidden: bool = False) -> Iterator[tuple[str, Any, str]]:
    """Yield the key, the resolved value and `=value` for messages, empty for a value that comes from a reference."""
    mapping = isinstance(node, dict | DictConfig)
    special = key.endswith(("_target_", "_args_"))
    if special or not (mapping or isinstance(node, list | tuple | ListConfig)):
        yield key, node, "" if hidden else f"={' '.join(str(node).split())}"
        return
    for name in node if mapping else range(len(node)):
        path = (f"{key}.{name}" if key else str(name)) if mapping else f"{key}[{name}]"
        raw = node._get_node(name)._value() if OmegaConf.is_config(node) else None
        try:
            child = node[name]
        except OmegaConfBaseException:
            if strict:
                raise
            continue
        yield from _leaves(path, child, strict, hidden or (isinstance(raw, str) and "${" in raw))
