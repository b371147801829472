"""The items that a user names: for one input as its feature finds them, for several inputs the rows of a table."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import UserError
from lab.features.base import Feature, Sample
from lab.features.files import refuse_wide

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
    """The rows of a table with a column for each input; paths are relative to its folder, or of `-` to this one."""
    path, names = Path(source), " and ".join(inputs)
    is_json = source == "-" or path.suffix.lower() in JSON_LINES
    if not is_json and path.suffix.lower() != ".csv":
        raise UserError(
            f"error: input={source}: {names} are read from a .csv or .jsonl table with a column for each;"
            " or, with input=-, from JSON lines on standard input."
        )
    if source != "-" and not path.is_file():
        raise UserError(f"error: input={source}: there is no such file.")
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
    with open(source, "rb") as head:
        refuse_wide(head.read(4), f"error: input={source}: it")
    with open(source, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        table = csv.DictReader(file)
        if missing := [name for name in inputs if name not in (table.fieldnames or ())]:
            raise UserError(
                f"error: input={source}: it has no column {missing[0]}; expected a column for each of"
                f" {', '.join(inputs)}."
            )
        try:
            yield from table
        except csv.Error as error:
            raise UserError(f"error: input={source}: line {table.line_num}: {error}.") from error


def _json_rows(source: str) -> Iterator[dict[str, Any] | str]:
    file: BinaryIO
    with open(sys.stdin.fileno() if source == "-" else source, "rb", closefd=source != "-") as file:
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
