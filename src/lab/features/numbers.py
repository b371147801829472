import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.errors import UserError
from lab.features.base import Feature, Row, Sample


@dataclass(frozen=True)
class Numbers(Feature):
    """A row of numbers, each with a name: (`size`,) float32. An item is their CSV, such as `1.5,20`."""

    names: list[str]
    entry: str = "numbers"

    qualified_fact_names = ("size", "names")
    item, column, content_types, in_json = "numbers", "numbers", "text/", "[<number>, …]"

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.entry,)

    @property
    def about(self) -> str:
        return ", ".join(self.names)

    @property
    def size(self) -> int:
        return len(self.names)

    def find(self, source: str) -> Iterator[str]:
        """The rows of a CSV file whose header has all names."""
        if not Path(source).is_file():
            raise UserError(f"error: input={source}: there is no such file; give a CSV file.")
        with open(source, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if missing := [name for name in self.names if name not in (table.fieldnames or ())]:
                raise UserError(f"error: input={source}: it has no column {missing[0]}.")
            yield from (",".join(row[name] or "" for name in self.names) for row in table)

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        try:
            values = [float(cell) for cell in content.decode().split(",")]
        except ValueError as error:
            raise UserError("it is not a row of numbers") from error
        if len(values) != len(self.names):
            raise UserError(f"it has {len(values)} numbers; expected {len(self.names)}: {', '.join(self.names)}")
        return {self.entry: np.array(values, np.float32)}

    def from_json(self, value: Any) -> bytes:
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
            raise ValueError("expected a list of numbers")
        return ",".join(map(repr, numbers)).encode()

    def example(self) -> Sample:
        return {self.entry: np.zeros(len(self.names), np.float32)}

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        return [{key: float(f"{x:.6g}") for key, x in zip(self.names, sample[self.entry].tolist(), strict=True)}]

    def html(self, sample: Sample) -> str:
        return ", ".join(f"{key} {x:.6g}" for key, x in zip(self.names, sample[self.entry].tolist(), strict=True))
