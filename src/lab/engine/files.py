"""Reading and writing the files of a run's folder. Nothing heavy is imported here.

A folder may come from anywhere, so reading is strict: no link is followed, no file is larger than lab writes, and JSON
has the types that lab writes (`lab.engine.records`). Writing is atomic: a file is complete or unchanged.
"""

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.engine.errors import UserError

MAX_BYTES = 2**26  # of a text file, such as the facts of a large vocabulary
MAX_BYTES_OF = {"config.yaml": 2**18, "stamp.json": 2**22, "results.json": 2**22, "sweep.json": 2**22}
FORMAT = 2  # of a run's folder, in its stamp; it grows when an older lab could not read a newer folder, or vice versa


def damaged(path: Path, problem: object) -> UserError:
    """The error for a file of a run that cannot be read. It tells if a lab with another folder format wrote the run."""
    if _has_other_format(path.parent):
        return UserError(
            f"error: {path} cannot be read: {problem}. Another version of lab wrote this run;"
            " use that version, or train a new run."
        )
    return UserError(f"error: {path} is damaged: {problem}.")


def _has_other_format(folder: Path) -> bool:
    """Return whether a folder has an intact stamp with another format; stamps of older labs have none."""
    try:
        stamp = json.loads(read_bytes(folder / "stamp.json"))
    except (OSError, ValueError, RecursionError, UserError):
        return False
    return isinstance(stamp, dict) and isinstance(stamp.get("overrides"), list) and stamp.get("format") != FORMAT


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: the file is missing or not readable.
        UserError: it is a link, not a regular file, or too large.
    """
    most = MAX_BYTES_OF.get(path.name, MAX_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for a writer
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"error: {path} is a symbolic link; a run's folder may only hold regular files. Remove it."
            ) from error
        raise
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"error: {path} is not a regular file; a run's folder may only hold regular files. Remove it."
            )
        if status.st_size > most:
            raise UserError(f"error: {path} is damaged: it is larger than {most / 2**20:g} MiB.")
        return file.read(most)


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return read_bytes(path).decode(errors="surrogateescape")  # it may contain a path that is not UTF-8
    except OSError as error:
        raise UserError(f"error: {path} cannot be read: {error.strerror}.") from error


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file of a run, with the types that lab writes; see `lab.engine.records`.

    Args:
        path: the file.
        *keys: the keys that it must have.

    Raises:
        UserError: the file is missing, not JSON, of other types, or lacks a key.
    """
    from lab.engine.records import validated  # pydantic, which no command line waits for

    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise damaged(path, f"expected an object, found {type(content).__name__}")
    check_keys(path, content, keys)
    try:
        return validated(path.name, content)
    except ValueError as error:
        raise damaged(path, error) from error


def check_keys(path: Path, content: Any, keys: Any) -> None:
    """Raises UserError if the content of a file lacks one of these keys."""
    if missing := [key for key in keys if key not in content]:
        raise damaged(path, f"it lacks {', '.join(missing)}")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.csv`: step and epoch are integers, metrics are floats; empty cells are left out.

    Raises:
        UserError: the file is not such a table.
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
        raise ValueError(f"{name}={text} is not an integer")
    return int(number)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file. At the end it replaces `path`; after an error `path` is unchanged.

    If `path` is a link, the link is replaced, not its target.
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


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def expanded(path: str) -> Path:
    """A path, with `~` replaced by the user's home.

    Raises:
        UserError: the user has no home, as in a container that was started with a numeric user.
    """
    whole = Path(os.path.expanduser(path))
    if whole.parts[:1] == ("~",) and not whole.exists():
        raise UserError(f"error: {path}: this user has no home folder. Set HOME, or give a path without ~.")
    return whole
