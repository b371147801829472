"""The items that `input=SOURCE` stands for: files, lines of a text file, or rows of a table with a column per input."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lab.engine.errors import UserError, unknown
from lab.features.base import Feature, Sample
from lab.features.files import csv_header, csv_rows, opened, refuse_wide

JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", *JSON_LINES)


@dataclass(frozen=True)
class Item:
    """One item to predict: for each input a file name, a text or a cell of a table."""

    cells: dict[str, str]  # by input
    error: str = ""  # why the item cannot be read


def find(inputs: Mapping[str, Feature], source: str, fixed: Mapping[str, str] | None = None) -> Iterable[Item]:
    """The items of a source. Lines of standard input are read one by one.

    Args:
        inputs: the features of the inputs, by name.
        source: a file, a folder, a table, or - for standard input.
        fixed: the cells that all items share, by input. The source has the others; those with a default may be absent.

    Raises:
        UserError: there are none.
    """
    same = dict(fixed or {})
    asked = {name: feature for name, feature in inputs.items() if name not in same}
    required = [name for name, feature in asked.items() if feature.default is None]
    if len(required) != 1 or Path(source).suffix.lower() in TABLES:
        return (Item(item.cells | same, item.error) for item in _rows(asked, source))
    same |= {name: feature.default for name, feature in asked.items() if feature.default is not None}
    names = asked[required[0]].find(source)
    items = (Item({required[0]: item} | same) for item in names)
    return list(items) if isinstance(names, Sequence) else items


def numbered(inputs: Mapping[str, Feature], num: int, fixed: Mapping[str, str]) -> list[Item]:
    """`num` items that no source has: fixed cells, and the features' own for the others.

    Raises:
        UserError: an input has neither.
    """
    for name, feature in inputs.items():
        if name not in fixed and feature.numbered(0) is None:
            raise UserError(f"error: num={num}: the input {name} has no default; give inputs.{name}=… or input=PATH.")
    return [Item({name: fixed.get(name) or str(f.numbered(i)) for name, f in inputs.items()}) for i in range(num)]


def wrong_names(inputs: Mapping[str, Feature], fixed: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each fixed cell that belongs to no input."""
    yield from (f"inputs: {unknown('input', name, inputs)}" for name in fixed if name not in inputs)


def read(inputs: Mapping[str, Feature], items: Sequence[Item]) -> tuple[list[Sample], list[str]]:
    """Read and decode items.

    Returns:
        The samples of the readable items, and for each item an error message, or "".
    """
    samples: list[Sample] = [{} for _ in items]
    errors = [item.error for item in items]
    for name, feature in inputs.items():
        readable = [i for i, error in enumerate(errors) if not error]
        parts, messages = feature.read([items[i].cells[name] for i in readable])
        remaining = iter(parts)
        for i, message in zip(readable, messages, strict=True):
            if message:
                errors[i] = f"{name}: {message}" if len(inputs) > 1 else message
            else:
                samples[i] |= next(remaining)
    return [sample for sample, error in zip(samples, errors, strict=True) if not error], errors


def _rows(inputs: Mapping[str, Feature], source: str) -> Iterator[Item]:
    """The rows of a table that has columns for each input. Paths in it are relative to the folder of the table.

    Raises:
        UserError: it is not a table, or has no rows.
    """
    path, names = Path(source), " and ".join(inputs)
    is_json = source == "-" or path.suffix.lower() in JSON_LINES
    if not is_json and path.suffix.lower() not in TABLES:
        raise UserError(
            f"error: input={source}: the inputs {names} need a .csv or .jsonl table with a column for each;"
            " input=- reads JSON lines from standard input."
        )
    rows: Iterator[dict[str, Any] | str] = _json_rows(source) if is_json else _csv_rows(inputs, source)
    if (first_row := next(rows, None)) is None:
        raise UserError(f"error: input={source}: it has no rows.")
    folder = Path() if source == "-" else path.parent
    return (_item(inputs, row, folder) for row in chain([first_row], rows))


def _item(inputs: Mapping[str, Feature], row: dict[str, Any] | str, folder: Path) -> Item:
    """The item of a row; a row that is a string is an error message."""
    if isinstance(row, str):
        return Item({}, row)
    cells, error = {}, ""
    for name, feature in inputs.items():
        value = row.get(name, feature.default)
        if value is None or (feature.accept and value == ""):
            error = error or f"it has no {name}"
        elif feature.accept and not isinstance(value, str):
            error = error or f"{name}: expected the path of a file"
        elif isinstance(value, str):
            cells[name] = str(folder / value) if feature.accept else value
        else:
            try:
                cells[name] = feature.from_json(value).decode()
            except ValueError as reason:
                error = error or f"{name}: expected {feature.in_json}: {reason}"
    return Item(cells, error)


def _csv_rows(inputs: Mapping[str, Feature], source: str) -> Iterator[dict[str, Any]]:
    header = csv_header(source)
    columns = {
        name: each for name, each in columns_of(inputs).items() if inputs[name].default is None or header >= {*each}
    }
    for row in csv_rows(source, [column for each in columns.values() for column in each]):
        remaining = iter(row)
        cells = {name: list(islice(remaining, len(each))) for name, each in columns.items()}
        texts = {name: [cell for cell in each if cell is not None] for name, each in cells.items()}
        yield {name: inputs[name].of_cells(each) for name, each in texts.items() if len(each) == len(cells[name])}


def columns_of(inputs: Mapping[str, Feature]) -> dict[str, list[str]]:
    """The columns of a table by input. A column name that two inputs share gets the input's name in front."""
    uses = Counter(column for name, feature in inputs.items() for column in feature.columns(name))
    return {
        name: [column if uses[column] == 1 else f"{name}_{column}" for column in feature.columns(name)]
        for name, feature in inputs.items()
    }


def _json_rows(source: str) -> Iterator[dict[str, Any] | str]:
    with opened(source, "") as file:
        for number, line in enumerate(file):
            if number == 0:
                refuse_wide(line[:4], f"error: input={source}: it")
            if line.strip():
                yield _json_row(line)


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}"
    return row if isinstance(row, dict) else "it is not a JSON object"
