"""Read columns of a CSV, TSV, JSONL or Parquet file. Errors name the file and the row, in one line."""

import csv
import difflib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lab.engine.errors import UserError, unknown
from lab.features.files import TABLES, refuse_wide


class BadRowError(ValueError):
    """A row cannot be read. The message follows the place of the row: " has no label"."""


def read_table(
    path: Path,
    columns: Sequence[str | int],
    may_be_empty: Collection[str | int] = (),
    not_blank: Collection[str | int] = (),
    hint: str = "",
) -> tuple[dict[str | int, list[str]], list[str], list[str]]:
    """Read columns of a table as text.

    A TSV file has no quotes, as in IANA's definition. A CSV file may have cells with several lines.

    Args:
        path: the file.
        columns: names in the header; or numbers, from 1, if a CSV or TSV file has no header.
        may_be_empty: columns whose cells may be null.
        not_blank: columns whose cells must have more than spaces.
        hint: the end of the message if a header lacks a column.

    Returns:
        The cells of the readable rows by column; the place of each such row, such as "FILE, line 7"; and an error for
        each other row, such as "FILE, line 7 has no label".

    Raises:
        UserError: the file can't be read, has no rows, or its first row lacks a column.
    """
    if path.suffix.lower() not in TABLES:
        raise UserError(f"data: {path}: expected a file that ends in {', '.join(TABLES)}.")
    cells: dict[str | int, list[str]] = {name: [] for name in columns}
    places: list[str] = []
    bad: list[str] = []
    try:
        for where, row in _rows(path, columns):
            place = f"{path}, {where}"
            try:
                if isinstance(row, BadRowError):
                    raise row
                if not (places or bad) and (lacking := [name for name in cells if name not in row]):
                    separated = path.suffix.lower() in (".csv", ".tsv")
                    raise UserError(
                        f"data: {path if separated else place}: {_unknown(lacking[0], row)}{hint if separated else ''}"
                    )
                values = [_cell(row, name, name in may_be_empty, name in not_blank) for name in cells]
            except BadRowError as error:
                bad.append(f"{place}{error}")
                continue
            places.append(place)
            for column, value in zip(cells.values(), values, strict=True):
                column.append(value)
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error
    if not places and not bad:
        raise UserError(f"data: {path} has no rows.")
    return cells, places, bad


def _cell(row: dict[Any, Any], name: str | int, may_be_empty: bool, not_blank: bool) -> str:
    if name not in row:
        raise BadRowError(f": {_unknown(name, row).rstrip('.')}")
    text = "" if row[name] is None and may_be_empty else _text(row[name], str(name))
    if not_blank and not text.strip():
        raise BadRowError(f" has no {name}")
    return text


def _unknown(name: str | int, row: dict[Any, Any]) -> str:
    """The message for a missing column. Cells are shortened: the first line may have whole texts."""
    names = [column if len(column) <= 40 else f"{column[:39]}…" for column in map(str, row)]
    if isinstance(name, int):
        return f"there is no column {name}; there are {len(names)}."
    if len(names) > 12:
        names = [*difflib.get_close_matches(name, names, n=1), *names[:11], f"and {len(names) - 11} more"]
    return unknown("column", name, names)


def read_utf8(path: Path) -> str:
    """Read a whole text file.

    Raises:
        UserError: the file can't be read, or is not UTF-8.
    """
    try:
        lines = []
        for number, line in enumerate(_lines(path), 1):
            try:
                refuse_bytes(line)
            except BadRowError as error:
                raise UserError(f"data: {path}, line {number}{error}.") from error
            lines.append(line)
        return "".join(lines)
    except OSError as error:
        raise UserError(f"data: {path} can't be read ({error.strerror}).") from error


def _rows(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, dict[Any, Any] | BadRowError]]:
    """Yield the name of each row, such as "line 7", and its cells by column, or an error."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path, columns)
    elif kind == ".jsonl":
        yield from _json_lines(path)
    else:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        yield from _separated(path, columns, dialect)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file. Bytes that are not UTF-8 become surrogates: see `refuse_bytes`."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                refuse_wide(line, f"data: {path}")
            yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")


def refuse_bytes(line: str) -> None:
    """Raise BadRowError if a line of a file is not UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = len(line[: error.start].encode()) + 1
        raise BadRowError(f" is not UTF-8 (byte {byte} of it). Save the file as UTF-8") from error


def _separated(
    path: Path, columns: Sequence[str | int], dialect: dict[str, Any]
) -> Iterator[tuple[str, dict[str | int, str] | BadRowError]]:
    csv.field_size_limit(2**31 - 1)  # characters of a cell; the default is 131,072
    wrong: list[BadRowError] = []  # in the lines of the current row

    def lines() -> Iterator[str]:
        for line in _lines(path):
            try:
                refuse_bytes(line)
            except BadRowError as error:
                wrong.append(error)
            yield line

    reader = csv.reader(lines(), strict=True, **dialect)
    header: list[str | int] = []
    try:
        for cells in reader:
            if not header:
                is_named = not any(isinstance(column, int) for column in columns)
                header = [cell.strip() for cell in cells] if is_named else [*range(1, len(cells) + 1)]
                if is_named:
                    _refuse_twice(path, header, columns)
                    continue
            if len(cells) not in (0, len(header)):  # 0: an empty line
                other = "the first line" if isinstance(header[0], int) else "the header"
                wrong.append(BadRowError(f" has {len(cells)} cells; {other} has {len(header)}"))
            if cells:
                row = wrong[0] if wrong else dict(zip(header, cells, strict=True))
                yield f"line {reader.line_num}", row
            wrong.clear()
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
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} occurs twice")
    return content


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | BadRowError]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield f"line {number}", _json_row(line)
            except BadRowError as error:
                yield f"line {number}", error


def _json_row(line: str) -> dict[str, Any]:
    refuse_bytes(line)
    try:
        row = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f" is damaged ({error})") from error
    if not isinstance(row, dict):
        raise BadRowError(' is not an object, such as {"text": "…", "label": "…"}')
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parquet(path: Path, columns: Sequence[str | int]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"data: {path} needs pyarrow: pip install pyarrow") from error
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


def _text(value: Any, name: str) -> str:
    """Convert a cell to text. Numbers and booleans are written as in JSON, whole numbers without a fraction."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas' missing value
        raise BadRowError(f" has no {name}")
    if isinstance(value, bool | int | float):
        return str(int(value)) if isinstance(value, float) and value.is_integer() else json.dumps(value)
    if not isinstance(value, str):
        raise BadRowError(f": {name} is not text, but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # one half of a surrogate pair
        raise BadRowError(f": {name} is not valid Unicode ({error.reason})") from error
    return value
