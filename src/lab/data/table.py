"""Columns of a CSV, TSV, JSONL or Parquet file. What is wrong with it is said in a line that names file and row."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.config import unknown
from lab.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(path: Path, columns: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The cells of each of these columns, as text, and the place of each row: "FILE, line 7".

    A TSV file has no quotes, as IANA has it; a CSV file may have cells of several lines.

    Raises:
        UserError: the file, or a row of it, is not what it should be.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"data: {path} is to end in {', '.join(SUFFIXES)}.")
    cells: dict[str, list[str]] = {name: [] for name in columns}
    places = []
    try:
        for where, row in _rows(path):
            place = f"{path}, {where}"
            for name in cells:
                if name not in row:
                    raise UserError(f"data: {place}: {unknown('column', name, row)}")
                cells[name].append(_text(row[name], name, place))
            places.append(place)
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error
    if not places:
        raise UserError(f"data: {path} has no rows.")
    return cells, places


def read_text(path: Path) -> str:
    """A whole file, decoded.

    Raises:
        UserError: it can't be read, or is not UTF-8.
    """
    try:
        return "".join(_lines(path))
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".jsonl":
        yield from _json_lines(path)
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        yield from _separated(path, dialect)


def _lines(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"data: {path}, line {number} is not UTF-8 (byte {error.start + 1} of it). Save the file as UTF-8."
                ) from error


def _separated(path: Path, dialect: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)  # of a cell; 131,072 characters otherwise
    reader = csv.reader(_lines(path), strict=True, **dialect)
    try:
        header = next(reader, [])
        for cells in reader:
            if len(cells) not in (0, len(header)):  # 0: an empty line
                raise UserError(
                    f"data: {path}, line {reader.line_num} has {len(cells)} cells; the header has {len(header)}."
                )
            if cells:
                yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"data: {path}, line {reader.line_num} is damaged ({error}).") from error


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"data: {path}, line {number} is damaged ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f'data: {path}, line {number} is no object, such as {{"text": "…", "label": "…"}}.')
        yield f"line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"data: {path} takes pyarrow: pip install pyarrow") from error
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ArrowException as error:
        raise UserError(f"data: {path} is damaged ({' '.join(str(error).split())}).") from error


def _text(value: Any, name: str, place: str) -> str:
    """A cell as text; a number or truth value as JSON has it."""
    if value is None:
        raise UserError(f"data: {place} has no {name}.")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise UserError(f"data: {place}: {name} is no text, but {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a pair of \u escapes
        raise UserError(f"data: {place}: {name} is no Unicode ({error.reason}).") from error
    return value
