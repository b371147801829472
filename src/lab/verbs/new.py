"""`lab new`: a project of the user's own, and new files in it or in a fork of lab. Nothing heavy is imported here."""

import keyword
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from string import Template

import lab
from lab.engine.config import packages
from lab.engine.display import say
from lab.engine.errors import UserError
from lab.engine.files import expanded

HELP = """lab new PATH             a project of your own that uses lab; PATH's last part names its package
lab new experiment NAME  a YAML and its test
lab new net NAME         a class, its YAML and its test; also data, task
lab new feature NAME     a class and its test

  Files are added to the project, or to the fork of lab, that the working directory is in."""
ROOMS = {"experiment": "", "net": "nets", "data": "data", "task": "tasks", "feature": "features"}  # below src/PACKAGE
WORDS = {  # of the config that a new file is tested with
    "experiment": ["experiment={name}", "data.tiny=true"],
    "net": ["experiment=digits", "net={name}", "data.tiny=true"],
    "data": ["experiment=digits", "net=mlp", "data={name}", "data.tiny=true"],
    "task": ["experiment=digits", "net=mlp", "task={name}", "data.tiny=true"],
    "feature": [],
}
PROJECT = {  # template -> file of a new project
    "pyproject.toml.txt": "pyproject.toml", "README.md": "README.md", "Makefile": "Makefile", "gitignore": ".gitignore",
    "experiment.yaml": "conf/experiment/shapes.yaml", "init.py.txt": "src/{package}/__init__.py",
}  # fmt: skip
PARTS = {"data": "shapes", "net": "small_cnn", "task": "focal"}  # of a new project
VALUES = {"null", "true", "false", "yes", "no", "on", "off", "nan", "inf"}  # what YAML or Hydra reads as no text
TEMPLATES = Path(__file__).with_name("templates")
CHECKOUT = Path(str(lab.__file__)).parents[2]  # if lab is no wheel


@dataclass(frozen=True)
class Place:
    """Where new files go: a project, or a fork of lab."""

    folder: Path
    package: str
    tests: str = "tests"

    @property
    def is_fork(self) -> bool:
        return self.package == "lab"


def main(arguments: Sequence[str]) -> None:
    """Make what the command line names.

    Raises:
        UserError: a name cannot be used, or a file exists.
    """
    words = list(arguments)
    if {"-h", "--help"} & set(words):
        say(*HELP.split("\n"))
    elif any(word.startswith("-") for word in words) or not 1 <= len(words) <= 2:
        raise UserError("error: expected lab new PATH, or lab new net NAME; lab new --help lists all.")
    elif len(words) == 2:
        _new_file(*words)
    elif words[0] in ROOMS:
        raise UserError(
            f"error: expected lab new {words[0]} NAME. To make a project named {words[0]}: lab new ./{words[0]}"
        )
    else:
        _new_project(expanded(words[0]))


def _new_project(path: Path) -> None:
    folder = Path(os.path.abspath(path))
    package = folder.name
    _check_name(package, "a package", f"lab new {path}")
    if package in packages.RESERVED or find_spec(package):
        raise UserError(f"error: lab new {path}: a package {package} is installed already. Choose another name.")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"error: {path} exists and is not an empty folder. Choose another path.")
    place = Place(folder, package)
    files = {
        folder / name.format(package=package): _filled(TEMPLATES / "project" / template, package=package, lab=_range())
        for template, name in PROJECT.items()
    }
    for kind, name in PARTS.items():
        files |= _files(kind, name, place, ["experiment=shapes", "data.tiny=true"])
    _write(files)
    say(
        *(f"made {os.path.relpath(file)}" for file in files),
        f"try  cd {shlex.quote(str(path))} && make train && make test",
    )


def _new_file(kind: str, name: str) -> None:
    if kind not in ROOMS:
        from lab.engine.errors import unknown

        raise UserError(f"error: lab new {kind} {name}: {unknown('kind', kind, ROOMS)}")
    _check_name(name, f"a{'n' * (kind == 'experiment')} {kind}", f"lab new {kind} {name}")
    place = _place(kind)
    words = [word.format(name=name) for word in WORDS[kind]]
    files = _files(kind, name, place, words)
    for file in [*files, *(folder / kind / f"{name}.yaml" for folder in _conf_folders(place))]:
        if os.path.lexists(file):
            raise UserError(f"error: lab new {kind} {name}: {file} exists. Choose another name.")
    _write(files)
    (test,) = (os.path.relpath(file) for file in files if file.name.startswith("test_"))
    say(*(f"made {os.path.relpath(file)}" for file in files))
    if words:
        say(f"try  lab train {' '.join(word for word in words if word != 'data.tiny=true')}")
    say(f"test python -m pytest {test}")
    if place.is_fork and kind == "experiment":
        say("     and once, to keep its first losses: python -m pytest tests -k golden --write-golden")


def _place(kind: str) -> Place:
    """The project, or the fork, that the working directory is in."""
    own = packages.project()
    for name in own.names if own else ():
        if own and own.src.joinpath(*name.split(".")).is_dir():
            return Place(own.folder, name)
    if (CHECKOUT / "conf").is_dir() and Path.cwd().is_relative_to(CHECKOUT):
        return Place(CHECKOUT, "lab", "tests/contracts")
    raise UserError(f"error: lab new {kind}: the working directory is in no project. lab new PATH makes one.")


def _conf_folders(place: Place) -> list[Path]:
    """Where a YAML of the same name may be."""
    inside = Path(str(lab.__file__)).with_name("conf")  # of a wheel
    return [place.folder / "conf", *packages.added_conf_folders(), inside if inside.is_dir() else CHECKOUT / "conf"]


def _files(kind: str, name: str, place: Place, words: Sequence[str]) -> dict[Path, str]:
    """The files of a new experiment, net, ..., and what they hold."""
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    given = {
        "name": name,
        "Name": class_name,
        "module": f"{place.package}.{ROOMS[kind]}.{name}",
        "words": ", ".join(f'"{word}"' for word in words),
    }
    targets = {
        f"{kind}.py.txt": place.folder.joinpath("src", *place.package.split("."), ROOMS[kind], f"{name}.py"),
        "conf.yaml": place.folder / "conf" / kind / f"{name}.yaml",
        "test.py.txt": place.folder / place.tests / f"test_{kind}_{name}.py",
    }
    found = {}
    for template, target in targets.items():
        source = TEMPLATES / kind / template
        if not source.is_file():
            continue
        found[target] = text = _filled(source, **given)
        taken = re.search(rf"^(from .* import .*\b{class_name}\b|{class_name} =)", text, re.MULTILINE)
        if taken and template != "test.py.txt":
            raise UserError(f"error: lab new {kind} {name}: the file has another {class_name}. Choose another name.")
    return found


def _filled(template: Path, **given: str) -> str:
    return Template(template.read_text(encoding="utf-8")).safe_substitute(given)


def _check_name(name: str, what: str, command: str) -> None:
    """Raises UserError where a name cannot be a module, an option of a config, and part of a class's name."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not keyword.iskeyword(name) and name.lower() not in VALUES:
        return
    near = re.sub(r"[-. ]+", "_", name)
    example = near if re.fullmatch(r"[A-Za-z]\w*", near, re.ASCII) and near != name else "mine"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(f"error: {command}: {name} is a reserved word of Python or YAML; choose another name.")
    raise UserError(
        f"error: {command}: {name or 'this'} is not a valid name for {what}; use letters, digits"
        f" and _, and start with a letter, such as {example}."
    )


def _range() -> str:
    """The versions of lab that a project of this one works with."""
    try:
        major, minor = map(int, version("lab-template").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return "lab"
    return f"lab-template>={major}.{minor},<{f'0.{minor + 1}' if major == 0 else major + 1}"


def _write(files: Mapping[Path, str]) -> None:
    """Write new files, or none of them.

    Raises:
        UserError: a file exists, or cannot be written.
    """
    made: list[Path] = []
    try:
        for path, text in files.items():
            for folder in reversed([parent for parent in path.parents if not parent.exists()]):
                folder.mkdir()
                made.append(folder)
            with open(path, "x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except BaseException as error:
        for path in reversed(made):
            path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise UserError(f"error: {error.filename or path}: {error.strerror}; nothing was made.") from error
        raise
