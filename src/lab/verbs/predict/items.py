"""The items that a user names: for one input as its feature finds them, for several inputs the rows of a table."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lab.engine.errors import UserError
from lab.features.base import Feature, Sample
from lab.features.files import csv_rows, opened, refuse_wide

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Item:
    cells: dict[str, str]  # by input
    error: str = ""  # why it can't be read


def find(inputs: Mapping[str, Feature], source: str) -> Iterable[Item]:
    """The items that `input=SOURCE` stands for.

    Raises:
        UserError: there are none.
    """
    if len(inputs) > 1:
        return _rows(inputs, source)
    ((name, feature),) = inputs.items()
    found = feature.find(source)
    items = (Item({name: item}) for item in found)
    return list(items) if isinstance(found, Sequence) else items


def read(inputs: Mapping[str, Feature], items: Sequence[Item]) -> tuple[list[Sample], list[str]]:
    """The samples of the readable items, and for each item the error, or ""."""
    samples: list[Sample] = [{} for _ in items]
    errors = [item.error for item in items]
    for name, feature in inputs.items():
        places = [i for i, error in enumerate(errors) if not error]
        found, wrong = feature.read([items[i].cells[name] for i in places])
        rest = iter(found)
        for i, error in zip(places, wrong, strict=True):
            if error:
                errors[i] = f"{name}: {error}" if len(inputs) > 1 else error
            else:
                samples[i] |= next(rest)
    return [sample for sample, error in zip(samples, errors, strict=True) if not error], errors


def _rows(inputs: Mapping[str, Feature], source: str) -> Iterator[Item]:
    """The rows of a table with the columns of each input; paths are relative to its folder, or of `-` to this one."""
    path, names = Path(source), " and ".join(inputs)
    is_json = source == "-" or path.suffix.lower() in JSON_LINES
    if not is_json and path.suffix.lower() != ".csv":
        raise UserError(
            f"error: input={source}: {names} are read from a .csv or .jsonl table with a column for each;"
            " or, with input=-, from JSON lines on standard input."
        )
    rows: Iterator[dict[str, Any] | str] = _json_rows(source) if is_json else _csv_rows(inputs, source)
    if (first := next(rows, None)) is None:
        raise UserError(f"error: input={source}: it has no rows.")
    folder = Path() if source == "-" else path.parent
    return (_item(inputs, row, folder) for row in chain([first], rows))


def _item(inputs: Mapping[str, Feature], row: dict[str, Any] | str, folder: Path) -> Item:
    if isinstance(row, str):
        return Item({}, row)
    cells, error = {}, ""
    for name, feature in inputs.items():
        value = row.get(name)
        if value is None or (feature.accept and value == ""):
            error = error or f"it has no {name}"
        elif feature.accept and not isinstance(value, str):
            error = error or f"{name} is not the path of a file"
        elif isinstance(value, str):
            cells[name] = str(folder / value) if feature.accept else value
        else:
            try:
                cells[name] = feature.from_json(value).decode()
            except ValueError as wrong:
                error = error or f"{name} is not {feature.in_json}: {wrong}"
    return Item(cells, error)


def _csv_rows(inputs: Mapping[str, Feature], source: str) -> Iterator[dict[str, Any]]:
    columns = columns_of(inputs)
    for row in csv_rows(source, [column for each in columns.values() for column in each]):
        rest = iter(row)
        cells = {name: list(islice(rest, len(each))) for name, each in columns.items()}
        texts = {name: [cell for cell in each if cell is not None] for name, each in cells.items()}
        yield {name: inputs[name].of_cells(each) for name, each in texts.items() if len(each) == len(cells[name])}


def columns_of(inputs: Mapping[str, Feature]) -> dict[str, list[str]]:
    """The columns of a table by input. Where two inputs have one of the same name, it begins with the input's name."""
    every = Counter(column for name, feature in inputs.items() for column in feature.columns(name))
    return {
        name: [column if every[column] == 1 else f"{name}_{column}" for column in feature.columns(name)]
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
