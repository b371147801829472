"""Files of a folder and lines of a file. This module imports no torch: exported models need none."""

import base64
import codecs
import csv
import glob
import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from lab.engine.errors import UserError

SYSTEM = (  # folders and files that systems and tools create, in lower case
    "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__", "thumbs.db",
    "desktop.ini",
)  # fmt: skip
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # the suffixes of tables
NO_LINES = (*TABLES, ".json", ".ndjson", ".arrow", ".xls", ".xlsx")


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder belongs to a system or a tool, such as .DS_Store or .ipynb_checkpoints."""
    return name.startswith(".") or name.lower() in SYSTEM


def visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, in order."""
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path.name)]


def files_below(folder: Path, hidden: list[Path] | None = None, _above: Collection[str] = ()) -> Iterator[Path]:
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
            yield from files_below(path, hidden, {*_above, real})
        else:
            yield path


def refuse_wide(start: bytes, where: str) -> None:
    """Raise UserError if the first bytes of a file are those of UTF-16 or UTF-32."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise UserError(f"{where} is UTF-16 or UTF-32, or not a text. Save the file as UTF-8.")


def lines(source: str, item: str) -> Iterator[str]:
    """The lines of a text file; `-`: of standard input, as they arrive.

    Args:
        source: the file.
        item: the content of a line, such as "a text".

    Raises:
        UserError: the file does not exist, has no lines of text, or is empty.
    """
    if Path(source).is_dir():
        raise UserError(f"error: input={source}: it is a folder; give a file with {item} on each line.")
    if Path(source).suffix.lower() in NO_LINES:
        raise UserError(
            f"error: input={source}: it is a table; give a file with {item} on each line."
            " To read it as plain lines, use input=- < FILE."
        )
    found = _lines(opened(source, f", with {item} on each line; input=- reads standard input"))
    if (first := next(found, None)) is None:
        raise UserError(f"error: input={source}: it is empty; {item} on each line is expected.")
    refuse_wide(first.encode(errors="surrogateescape"), f"error: input={source}: it")
    return chain([first], found)


def csv_rows(source: str, columns: Sequence[str]) -> Iterator[list[str | None]]:
    """The cells of these columns in each row of a CSV file; `-`: of standard input, as they arrive.

    A cell is None if the row is too short.

    Raises:
        UserError: the file does not exist, is damaged, lacks a column, or has no rows.
    """
    if Path(source).is_dir():
        raise UserError(f"error: input={source}: it is a folder; give a CSV file.")
    rows = _csv_rows(source, columns)
    if (first := next(rows, None)) is None:
        raise UserError(f"error: input={source}: it has no rows.")
    return chain([first], rows)


def csv_header(source: str) -> set[str]:
    """The names of the columns of a CSV file; empty if `csv_rows` would raise an error."""
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return set(next(csv.reader(file), []))
    except (OSError, ValueError, csv.Error):
        return set()


def _csv_rows(source: str, columns: Sequence[str]) -> Iterator[list[str | None]]:
    with opened(source, "; give a CSV file") as file:
        refuse_wide(file.peek(4)[:4], f"error: input={source}: it")
        csv.field_size_limit(2**31 - 1)  # characters of a cell; the default is 131,072
        table = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""))
        try:
            places = _places(source, next(table, []), columns)
            for row in table:
                if row:
                    yield [row[i] if i < len(row) else None for i in places]
        except csv.Error as error:
            raise UserError(f"error: input={source}: line {table.line_num}: {error}.") from error


def _places(source: str, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    for name in columns:
        if (num := header.count(name)) != 1:
            has = f"it has {num} columns" if num else "it has no column"
            raise UserError(f"error: input={source}: {has} {name}; expected a column for each of {', '.join(columns)}.")
    return [header.index(name) for name in columns]


def opened(source: str, expected: str) -> io.BufferedReader:
    """Open a file for reading bytes; `-`: standard input.

    Args:
        source: the file.
        expected: the end of the message if the file does not exist.

    Raises:
        UserError: the file can't be opened.
    """
    try:
        return open(sys.stdin.fileno() if source == "-" else source, "rb", closefd=source != "-")
    except FileNotFoundError as error:
        raise UserError(f"error: input={source}: there is no such file{expected}.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"error: input={source}: it can't be read: {getattr(error, 'strerror', error)}.") from error


def _lines(file: BinaryIO) -> Iterator[str]:
    with file:
        yield from map(line_of, file)


def line_of(content: bytes) -> str:
    """Decode a line, without its line break and byte order mark. Bytes that are not UTF-8 become surrogates."""
    return without_end(content.decode(errors="surrogateescape").removeprefix("\ufeff"))


def without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def to_bytes(text: str) -> bytes:
    """Encode a text. The surrogates of bytes that are not UTF-8 become these bytes again.

    Raises:
        UserError: the text has other surrogates, as JSON may.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise UserError(f"{text[:100]} is not UTF-8") from error


def content_of(path: str) -> bytes:
    """Read the bytes of a file.

    Raises:
        UserError: the file can't be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UserError(f"{path} can't be read ({getattr(error, 'strerror', error)})") from error


def find_files(source: str, suffixes: Collection[str], kind: str) -> list[str]:
    """A file, the files of a kind in a folder, the files of a glob pattern; `-`: paths on standard input, one per line.

    Args:
        source: the value of `input=`.
        suffixes: of the files in a folder that are items, in lower case.
        kind: a word for these files, such as "images".

    Raises:
        UserError: there are none.
    """
    if source == "-":
        content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
        refuse_wide(content[:4], "error: input=-: it")
        lines = (line.removesuffix("\r") for line in os.fsdecode(content).split("\n"))
        paths = [line for line in lines if line.strip()]
    elif Path(source).is_dir():
        files = files_below(Path(source))
        paths = sorted(str(path) for path in files if path.suffix.lower() in suffixes and path.is_file())
    elif Path(source).is_file():
        paths = [source]
    else:
        paths = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())
    if not paths and Path(source).is_dir():
        raise UserError(f"error: input={source}: the folder has no {kind}.")
    if not paths and source == "-":
        raise UserError("error: input=-: expected paths on standard input, one per line.")
    if not paths:
        raise UserError(f"error: input={source}: there is no such file or folder.")
    return paths


def of_base64(text: str) -> bytes:
    """Decode base64, also with line breaks, in the URL alphabet, without padding, or as a data URL.

    Raises:
        ValueError: the text is not base64.
    """
    text = "".join(re.sub(r"^\s*data:[^,]*,", "", text, flags=re.IGNORECASE).split()).rstrip("=")
    padded = text + "=" * (-len(text) % 4)
    return base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
