"""Which files of a folder are read, and how; without torch, for the verbs that answer without it."""

import os
from collections.abc import Container, Iterator
from pathlib import Path

from lab.errors import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # how the names of those that lab reads end


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is a system's or a tool's own, such as .DS_Store or .ipynb_checkpoints."""
    return name.startswith(".") or name == "__MACOSX"


def visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, in order."""
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]


def files_below(folder: Path, _above: Container[str] = ()) -> Iterator[Path]:
    """The entries at any depth that are no folders, in order. Links to folders are followed; hidden names are not."""
    real = os.path.realpath(folder)
    if real in _above:  # a link that leads back
        return
    for path in visible(folder):
        if path.is_dir():
            yield from files_below(path, {*_above, real})  # type: ignore[misc]
        else:
            yield path


def refuse_wide(start: bytes, where: str) -> None:
    """Raise UserError where a file's first bytes are those of UTF-16 or UTF-32."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise UserError(f"{where} is UTF-16 or UTF-32, or not a text. Save the file as UTF-8.")
