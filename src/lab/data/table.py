"""Columns of a CSV, TSV, JSONL or Parquet file. What is wrong with it is said in a line that names file and row."""

import csv
import difflib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.config import unknown
from lab.data.files import TABLES, refuse_wide
from lab.errors import UserError


def read_table(
    path: Path, columns: Sequence[str | int], may_be_empty: Collection[str | int] = (), hint: str = ""
) -> tuple[dict[str | int, list[str]], list[str]]:
    """The cells of each of these columns, as text, and the place of each row: "FILE, line 7".

    A TSV file has no quotes, as IANA has it; a CSV file may have cells of several lines.

    Args:
        path: the file.
        columns: names in the header; or numbers, from 1, where a CSV or TSV file has no header.
        may_be_empty: columns whose cells may be null.
        hint: what to do where a header lacks a column.

    Raises:
        UserError: the file, or a row of it, is not what it should be.
    """
    if path.suffix.lower() not in TABLES:
        raise UserError(f"data: {path} is to end in {', '.join(TABLES)}.")
    cells: dict[str | int, list[str]] = {name: [] for name in columns}
    places = []
    try:
        for where, row in _rows(path, columns):
            place = f"{path}, {where}"
            for name in cells:
                if name not in row:
                    separated = path.suffix.lower() in (".csv", ".tsv")
                    raise UserError(f"data: {place}: {_unknown(name, row)}{hint if separated else ''}")
                empty = row[name] is None and name in may_be_empty
                cells[name].append("" if empty else _text(row[name], str(name), place))
            places.append(place)
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error
    if not places:
        raise UserError(f"data: {path} has no rows.")
    return cells, places


def _unknown(name: str | int, row: dict[Any, Any]) -> str:
    """The cells of a line that is taken for a header may be whole texts."""
    names = [column if len(column) <= 40 else f"{column[:39]}…" for column in map(str, row)]
    if isinstance(name, int):
        return f"there is no column {name}; there are {len(names)}."
    if len(names) > 12:
        names = [*difflib.get_close_matches(name, names, n=1), *names[:11], f"and {len(names) - 11} more"]
    return unknown("column", name, names)


def read_text(path: Path) -> str:
    """A whole file, decoded.

    Raises:
        UserError: it can't be read, or is not UTF-8.
    """
    try:
        return "".join(_lines(path))
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error


def _rows(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, dict[Any, Any]]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path, columns)
    elif kind == ".jsonl":
        yield from _json_lines(path)
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        yield from _separated(path, columns, dialect)


def _lines(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                refuse_wide(line, f"data: {path}")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"data: {path}, line {number} is not UTF-8 (byte {error.start + 1} of it). Save the file as UTF-8."
                ) from error


def _separated(
    path: Path, columns: Sequence[str | int], dialect: dict[str, Any]
) -> Iterator[tuple[str, dict[str | int, str]]]:
    csv.field_size_limit(2**31 - 1)  # of a cell; 131,072 characters otherwise
    reader = csv.reader(_lines(path), strict=True, **dialect)
    try:
        header: list[str | int] = []
        for cells in reader:
            if not header and any(isinstance(column, int) for column in columns):
                header = [*range(1, len(cells) + 1)]
            elif not header:
                header = [cell.strip() for cell in cells]
                _refuse_twice(path, header, columns)
                continue
            if len(cells) not in (0, len(header)):  # 0: an empty line
                other = "the first line" if isinstance(header[0], int) else "the header"
                raise UserError(
                    f"data: {path}, line {reader.line_num} has {len(cells)} cells; {other} has {len(header)}."
                )
            if cells:
                yield f"line {reader.line_num}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"data: {path}, line {reader.line_num} is damaged ({error}).") from error


def _refuse_twice(path: Path, header: Sequence[str | int], columns: Sequence[str | int]) -> None:
    for column in columns:
        if (number := header.count(column)) > 1:
            raise UserError(f"data: {path} has {number} columns named {column}. Rename all but one.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return content


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise UserError(f"data: {path}, line {number} is damaged ({error}).") from error
        if not isinstance(row, dict):
            raise UserError(f'data: {path}, line {number} is no object, such as {{"text": "…", "label": "…"}}.')
        yield f"line {number}", row


def _parquet(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"data: {path} takes pyarrow: pip install pyarrow") from error
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            _refuse_twice(path, file.schema_arrow.names, columns)
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
