"""The project of the working directory. This module imports nothing of it.

A project is a folder whose `pyproject.toml` declares its package in the group `lab.packages`:

    mine/pyproject.toml     [project.entry-points."lab.packages"]
    mine/conf/              mine = "mine"
    mine/src/mine/

Inside it, configs may call the package although it is not installed, and its `conf/` comes before lab's.
"""

# Why the working directory decides, and what limits it. To run `lab` in a project's folder is to run the project's
# code, as with pytest or make. To name a folder (`run=`, `finetune=`, `input=`) is to read it: a run, a checkpoint or
# a data.json never adds a package, wherever it lies. Two cases are therefore no projects:
# * any folder, for a working directory in a run's or a sweep's folder: `cd downloaded/run && lab test run=.` only
#   reads a run, whatever was unpacked around it;
# * a folder of another user, as for git's safe.directory, for anybody may write /tmp/pyproject.toml. An editable
#   installation of it (pip install -e) is the user's consent; see packages.py.
# A line on stderr names the project when its package is first imported.

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.engine.errors import UserError
from lab.engine.files import read_bytes
from lab.engine.folder import CONFIG, FACTS, RESULTS, STAMP, SWEEP

FILE, GROUP = "pyproject.toml", "lab.packages"


@dataclass(frozen=True)
class Project:
    """A folder that declares packages in its `pyproject.toml`.

    Args:
        folder: with `conf/` and `src/`.
        names: of the packages.
    """

    folder: Path
    names: tuple[str, ...]

    @property
    def file(self) -> Path:
        return self.folder / FILE

    @property
    def src(self) -> Path:
        return self.folder / "src"

    @property
    def conf(self) -> Path:
        return self.folder / "conf"

    def is_of_another_user(self) -> bool:
        """Return whether a user other than this user and root owns a part of it."""
        packages = (self.src.joinpath(*name.split(".")) for name in self.names)
        paths = [path for path in (self.folder, self.file, self.src, self.conf, *packages) if os.path.lexists(path)]
        owners = {
            status.st_uid for path in paths for status in (path.lstat(), *([path.stat()] if path.exists() else []))
        }
        return hasattr(os, "geteuid") and not owners <= {os.geteuid(), 0}


def find() -> Project | None:
    """The project of the nearest `pyproject.toml` that declares one, in the working directory or above it.

    Raises:
        UserError: the file is not TOML.
    """
    try:
        return find_above(Path.cwd())
    except FileNotFoundError:  # the working directory has been removed
        return None


@cache
def find_above(here: Path) -> Project | None:
    folders = (here, *here.parents)
    if any(map(_is_run_or_sweep, folders)):
        return None
    found = ((folder, names) for folder in folders if (names := _names(folder / FILE)))
    return next((Project(folder, names) for folder, names in found), None)


def _names(path: Path) -> tuple[str, ...]:
    """The packages that a `pyproject.toml` declares."""
    try:
        text = read_bytes(path).decode()
    except (OSError, UserError, UnicodeDecodeError):
        return ()
    if GROUP not in text:
        return ()
    try:
        names = tomllib.loads(text)["project"]["entry-points"][GROUP].values()
    except (KeyError, TypeError, AttributeError):
        return ()
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"error: {path} is not TOML: {error}. Correct it.") from error
    return tuple(map(str, names))


def _is_run_or_sweep(folder: Path) -> bool:
    """Return whether it is the folder of a run or of a sweep."""
    run = (folder / CONFIG).exists() and any((folder / name).exists() for name in (FACTS, RESULTS, STAMP))
    return run or (folder / SWEEP).exists()
