"""The packages, besides lab, whose classes a config may call. This module imports none of them.

An installed distribution declares its package as an entry point in the group `lab.packages`:

    [project.entry-points."lab.packages"]
    mine = "mine"

Configs may then call the classes and functions that its modules define, and Hydra also searches its folder `conf/`.
The project of the working directory needs no installation: see `project.py`.
"""

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lab.engine.config.project import FILE, GROUP, Project, find
from lab.engine.display import say
from lab.engine.errors import UserError

# Never "install it": a run from a stranger may name any package.
OWN_PACKAGE = "If it is your own, run lab inside the folder of its project."
# Packages that no distribution may declare: a config could call everything in them
RESERVED = {
    *sys.stdlib_module_names, "__main__", "lab", "hydra", "omegaconf", "torch", "torchvision", "torchmetrics",
    "lightning", "optuna",
}  # fmt: skip


def packages() -> dict[str, tuple[Path, ...]]:
    """The packages of the project and of installed distributions, each with its folders; a module in one file has none.

    Raises:
        UserError: an entry point declares something that is not an importable package.
    """
    own = project()
    installed = _packages(tuple(sys.path))
    return (_of_project(own, tuple(sys.path)) | installed) if own else installed


def project() -> Project | None:
    """The project of the working directory. Its folder `src/` is put on `sys.path`.

    Raises:
        UserError: another user owns it, and it is not installed.
    """
    found = find()
    if found is None:
        return None
    if found.is_of_another_user() and not _is_installed(found):
        raise UserError(
            f"error: {found.file} declares {', '.join(found.names)} and belongs to another user. If you trust its code:"
            f" pip install -e {found.folder}"
        )
    if str(found.src) not in sys.path and any(has_module((found.src,), name) for name in found.names):
        sys.path.insert(0, str(found.src))
    return found


def announce(module: str) -> None:
    """Print the project's folder, once, before one of its modules is imported."""
    own = project()
    if own and owner(module) in own.names and os.environ.get("LOCAL_RANK", "0") == "0":
        _announce(own)


@cache
def _announce(own: Project) -> None:
    say(f"Using the code of the project {own.folder}", file=sys.stderr)


def added_conf_folders() -> list[Path]:
    """The folders of YAMLs: the project's, whose files replace lab's, then those of installed packages."""
    own = project()
    return [*([own.conf] if own and own.conf.is_dir() else []), *package_conf_folders()]


def package_conf_folders() -> list[Path]:
    return [folder / "conf" for folders in packages().values() for folder in folders if (folder / "conf").is_dir()]


def owner(module: str) -> str | None:
    """The package that contains a module, or None."""
    for name, folders in packages().items():
        if module == name:
            return name
        if module.startswith(f"{name}.") and has_module(folders, module[len(name) + 1 :]):
            return name
    return None


def has_module(folders: tuple[Path, ...], name: str) -> bool:
    """Return whether a package in these folders has this module or subpackage. Nothing is imported."""
    *parents, last = name.split(".")
    if not all(part.isidentifier() and part[:2] != "__" for part in (*parents, last)):
        return False
    places = [folder.joinpath(*parents) for folder in folders]
    return any((place / f"{last}.py").is_file() or (place / last).is_dir() for place in places)


@cache
def _packages(path: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    return {name: _folders(name, entry_points) for name, entry_points in _declared(path)}


@cache
def _of_project(own: Project, path: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """The packages in a project's folder `src/`."""
    installed = _packages(path)
    names = [name for name in own.names if has_module((own.src,), name) or name not in installed]
    return {name: _folders(name, str(own.file)) for name in names}


def _is_installed(found: Project) -> bool:
    """Return whether distributions declare the same packages in the same folders, as after `pip install -e`."""
    installed = _packages(tuple(sys.path))
    folders = [installed.get(name, ()) for name in found.names]
    return all(each and all(folder.is_relative_to(found.folder) for folder in each) for each in folders)


def _declared(path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield each package with the file that declares it, as `importlib.metadata` does in ten times the time."""
    seen = set()
    for folder in filter(None, path):  # "": the working directory
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info")))
        except OSError:
            continue
        for name in names:
            distribution = re.sub(r"[-_.]+", "-", name.rpartition(".")[0].partition("-")[0]).lower()
            if distribution in seen:  # the first folder wins
                continue
            seen.add(distribution)
            entry_points = os.path.join(folder, name, "entry_points.txt")
            try:
                with open(entry_points, encoding="utf-8") as file:
                    lines = file.read().splitlines()
            except OSError:
                continue
            yield from ((package, entry_points) for package in _values(lines))


def _values(lines: list[str]) -> Iterator[str]:
    """Yield the values of the group in the lines of an `entry_points.txt`."""
    section = ""
    for line in map(str.strip, lines):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and line and line[0] not in "#;":
            yield line.partition("=")[2].strip()


def _folders(name: str, entry_points: str) -> tuple[Path, ...]:
    def refuse(problem: str) -> UserError:
        advice = "Correct it." if entry_points.endswith(FILE) else f"Correct its {FILE}, and install it again."
        return UserError(f"error: {entry_points}: {GROUP}: {problem}. {advice}")

    top, *rest = parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise refuse(f"expected the name of a package, such as mine, got {name!r}")
    if top in RESERVED:
        raise refuse(f"{name} is a reserved name; declare another package")
    spec = find_spec(top)
    # sys.path may hold two names of one folder, such as "" and the working directory
    folders = list(dict.fromkeys(Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()))
    there = spec is not None
    for part in rest:
        there = has_module(tuple(folders), part)
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    if not there:
        raise refuse(f"package {name} does not exist")
    return tuple(folders)
