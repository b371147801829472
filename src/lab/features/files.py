"""Which files of a folder are read, and how; without torch, for the verbs that answer without it."""

import os
from collections.abc import Container, Iterator
from pathlib import Path

from lab.errors import UserError

SYSTEM = (  # folders and files that a system or a tool makes by itself, in lower case
    "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__", "thumbs.db",
    "desktop.ini",
)  # fmt: skip
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # how the names of those that lab reads end
NO_LINES = (*TABLES, ".json", ".ndjson", ".arrow", ".xls", ".xlsx")


def is_hidden(name: str) -> bool:
    """Whether a file or a folder belongs to a system or a tool, such as .DS_Store or .ipynb_checkpoints."""
    return name.startswith(".") or name.lower() in SYSTEM


def visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, in order."""
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]


def files_below(folder: Path, hidden: list[Path] | None = None, _above: Container[str] = ()) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, in order. Links to folders are followed; hidden names are not.

    Args:
        folder: where to look.
        hidden: a list that gets the hidden files and folders.
    """
    real = os.path.realpath(folder)
    if real in _above:  # a link to a folder that contains it
        return
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            if hidden is not None:
                hidden.append(path)
        elif path.is_dir():
            yield from files_below(path, hidden, {*_above, real})  # type: ignore[misc]
        else:
            yield path


def refuse_wide(start: bytes, where: str) -> None:
    """Raise UserError where a file's first bytes are those of UTF-16 or UTF-32."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise UserError(f"{where} is UTF-16 or UTF-32, or not a text. Save the file as UTF-8.")
