"""The files of a run's folder: how they are read, written and checked. Nothing heavy is imported here.

A folder may come from anywhere. Reading one touches that folder only: no link is followed, nothing unlimited is read,
and each file has the types that lab writes.
"""

import csv
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from lab.engine import secrets
from lab.engine.errors import UserError

CONFIG, FACTS, RESULTS, STAMP = "config.yaml", "data.json", "results.json", "stamp.json"
PARTS = ("trainer", "data", "net", "task", "optimizer", "scheduler", "logger")  # of a config, as they are written
SWEEP = "sweep.json"  # in a sweep's folder: what it was asked for, and the keys that its runs differ in
PREDICTIONS = "test_predictions.csv"  # by the best weights
FIGURES, DIFF, LOCK = "figures", "git.diff", ".lock"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
DATA_REPORT = "data_report.txt"  # what was found, used and left out
HALF_MADE = (LOCK, FACTS, DATA_REPORT, STAMP, DIFF)  # what is in a folder before its config, which makes it a run
OWN = re.compile(  # all that lab reads or writes in a run's folder
    r"(config|hparams)\.yaml|(data|results|stamp|sweep)\.json|(test_predictions|metrics)\.csv|git\.diff|\.lock"
    r"|(best|last|previous)\.ckpt|data_report\.txt|crash\d*\.txt|report\.html|model\w*\..+"
    r"|(figures|explain)(/.+)?|checkpoints(/[^/]+)?"
)
DEEPEST = 50  # mappings and lists inside each other in a config
MOST_EVENTS, MOST_REFERENCES = 10_000, 100  # in a config: OmegaConf takes 0.1 ms for each
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape in YAML, of a byte of a path that is not UTF-8
MOST_BYTES = 2**26  # of a text file, such as the facts of a large vocabulary
MOST_OF = {"config.yaml": 2**18, "stamp.json": 2**22, "results.json": 2**22, "sweep.json": 2**22}


def check_finished(folder: Path) -> None:
    """Refuse a folder that is not that of a finished run.

    Raises:
        UserError: the folder, and what is wrong with it.
    """
    missing = [name for name in (RESULTS, CONFIG, FACTS, BEST) if not (folder / name).is_file()]
    if not folder.is_dir():
        problem = "there is no such folder"
    elif missing:
        problem = f"it has no {missing[0]}"
    else:
        refuse_links(folder)
        if (status := read_json(folder / RESULTS, "status")["status"]) == "finished":
            return
        problem = f"its status is {status}"
    raise UserError(f"error: {folder} is not a finished run: {problem}. lab train makes one.")


def refuse_links(folder: Path, everywhere: bool = False) -> None:
    """Refuse a run's folder where a name that lab reads or writes is a link or no regular file. Others stay unopened.

    Args:
        folder: the run's.
        everywhere: refuse any other link that leads out of the folder too, for callbacks and loggers may write there.

    Raises:
        UserError: the name, and what it is.
    """

    def unreadable(error: OSError) -> NoReturn:
        raise UserError(f"error: {folder} can't be read: {error.strerror}.") from error

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        for path in (Path(parent, name) for name in (*folders, *files)):
            own = OWN.fullmatch(path.relative_to(folder).as_posix())
            if not (own or everywhere):
                continue
            with suppress(FileNotFoundError):  # a temporary file of a run that is being trained
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    continue
                if own or not stat.S_ISLNK(mode) or not path.resolve().is_relative_to(folder.resolve()):
                    what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                    raise UserError(f"error: {path} is {what}; a run's folder holds files only. Remove it.")


def is_half_made(folder: Path) -> bool:
    """Whether a run that ended before its config was written, and nobody else, has made a folder."""
    names = [path.name for path in folder.iterdir()]
    return all(name in HALF_MADE or re.fullmatch(r"\..*\.tmp", name) for name in names)


def latest(log_dir: Path) -> Path:
    """The folder of the run that began last, at any depth. Hidden folders, such as that of archived runs, do not count.

    Raises:
        UserError: there is none.
    """
    found = [(began, folder) for folder in runs_below(log_dir) if (began := _began(folder)) is not None]
    if not found:
        raise UserError(f"error: run=latest: there is no run in {log_dir}.")
    return max(found)[1]


def runs_below(log_dir: Path) -> Iterator[Path]:
    """The folders of runs; no run is inside another."""
    for parent, folders, files in os.walk(log_dir):
        folders[:] = [] if CONFIG in files else sorted(name for name in folders if not name.startswith("."))
        if CONFIG in files:
            yield Path(parent)


def _began(folder: Path) -> float | None:
    try:
        began = read_json(folder / STAMP).get("began")
    except UserError:
        return None
    return began if isinstance(began, float | int) else None


def read_bytes(path: Path) -> bytes:
    """What a regular file holds.

    Raises:
        OSError: it is not there, or not readable.
        UserError: it is a link or no file, or it is larger than such a file of a run can be.
    """
    most = MOST_OF.get(path.name, MOST_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a writer
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"error: {path} is a symbolic link; a run's folder holds files only. Remove it.") from error
        raise
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"error: {path} is no regular file; a run's folder holds files only. Remove it.")
        if status.st_size > most:
            raise UserError(f"error: {path} is damaged: it has more than {most / 2**20:g} MiB.")
        return file.read(most)


def read_text(path: Path) -> str:
    """The same, as text.

    Raises:
        UserError: it can't be read.
    """
    try:
        return read_bytes(path).decode(errors="surrogateescape")  # a path in it need not be UTF-8
    except OSError as error:
        raise UserError(f"error: {path} is damaged: it can't be read ({error.strerror}).") from error


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a file of a run, with the types that lab writes: see `lab.engine.records`.

    Raises:
        UserError: it is not there, not JSON, of other types, or without one of the keys.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"error: {path} is damaged: it is not JSON ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise UserError(f"error: {path} is damaged: it holds {type(content).__name__}, and no object.")
    from lab.engine.records import validated

    try:
        return validated(path.name, _with(path, content, keys))
    except ValueError as error:
        raise UserError(f"error: {path} is damaged: {error}.") from error


def read_config(folder: Path) -> Any:
    """The config of a run.

    Raises:
        UserError: it is no whole one.
    """
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException
    from omegaconf.grammar_parser import parse

    path = folder / CONFIG
    text = read_text(path)
    secrets.install()
    unreadable = (ValueError, TypeError, RecursionError, yaml.YAMLError, GrammarParseError, OmegaConfBaseException)
    try:
        slow = SURROGATE.search(text)  # which libyaml refuses
        _check_events(
            yaml.parse(text, Loader=yaml.SafeLoader if slow else getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        )
        if text.count("${") > MOST_REFERENCES:
            raise ValueError("it has too many references")
        cfg = OmegaConf.create(text)
        for line in text.splitlines():
            if "${" in line:
                parse(line)  # what is cut inside a reference is YAML still
    except unreadable as error:
        raise UserError(f"error: {path} is damaged: it can't be read ({' '.join(str(error).split())}).") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"error: {path} is damaged: it holds no config.")
    for part in PARTS:
        if part in cfg and not isinstance(cfg._get_node(part), DictConfig):
            raise UserError(f"error: {path} is damaged: {part} is no mapping.")
    return _with(path, cfg, PARTS)


def _check_events(events: Iterator[Any]) -> None:
    """Refuse YAML that takes memory or minutes to build. Its events are read one by one, so that nothing is built yet.

    Raises:
        ValueError: it has aliases, too many entries, or is nested too deeply.
    """
    import yaml

    depth = 0
    for number, event in enumerate(events):
        if number > MOST_EVENTS:
            raise ValueError("it has too many entries")
        if number == 2 and not isinstance(event, yaml.MappingStartEvent):  # after the stream's and the document's start
            raise ValueError("it holds no mapping")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, which lab writes nowhere")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.csv`: step and epoch are whole numbers, the rest floats; empty cells are left out.

    Raises:
        UserError: it is no such table.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        if "step" not in (reader.fieldnames or ()):
            raise ValueError("it has no column step")
        rows = [{name: _number(name, text) for name, text in row.items() if text} for row in reader]
        if not all("step" in row for row in rows):
            raise ValueError("a row has no step")
        return rows
    except (csv.Error, ValueError, TypeError) as error:
        raise UserError(f"error: {path} is damaged, line {reader.line_num}: {error}.") from error


def _number(name: str, text: str) -> float | int:
    if name not in ("step", "epoch"):
        return float(text)
    number = float(text)
    if not 0 <= number < 2**53 or number != int(number):
        raise ValueError(f"{name} is {text}, and no whole number")
    return int(number)


def _with(path: Path, content: Any, keys: Any) -> Any:
    if missing := [key for key in keys if key not in content]:
        raise UserError(f"error: {path} is damaged: it lacks {', '.join(missing)}.")
    return content


def plain(cfg: Any) -> dict[str, Any]:
    """A config as a dictionary; references as they stand."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def flat(cfg: Any) -> dict[str, Any]:
    """A config's dotted keys and their values; references as they stand."""
    from omegaconf import OmegaConf

    def walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, child in value.items():
                yield from walk(f"{key}.{name}" if key else str(name), child)
        else:
            yield key, value

    return dict(walk("", OmegaConf.to_container(cfg, resolve=False)))


def expanded(path: str) -> Path:
    """A path, with `~` as the user's home.

    Raises:
        UserError: there is no home, as in a container that was started with a number for a user.
    """
    whole = Path(os.path.expanduser(path))
    if whole.parts[:1] == ("~",) and not whole.exists():
        raise UserError(f"error: {path}: this user has no home. Set HOME, or name a folder without ~.")
    return whole


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a new file's name to write to; the file then takes the place of `path`, whole or not at all.

    A link at `path` is replaced, and its target stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode(errors="surrogateescape"))


def write_config(folder: Path, cfg: Any) -> None:
    from omegaconf import OmegaConf

    write_text(folder / CONFIG, OmegaConf.to_yaml(cfg))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
