import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.engine.errors import UserError
from lab.features.base import Feature, Row, Sample
from lab.features.files import csv_rows

LONGEST = 100  # characters of a number
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Numbers(Feature):
    """A row of finite numbers, each with a name: (`size`,) float32. An item is a line of CSV, such as `1.5,20`."""

    names: list[str]
    entry: str = "numbers"

    qualified_fact_names = ("size", "names")
    item, column, content_types, in_json = "numbers", "numbers", "text/", "[<number>, …]"

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def about(self) -> str:
        return ", ".join(self.names)

    def columns(self, name: str) -> list[str]:
        return self.names

    def of_cells(self, cells: Sequence[str]) -> str:
        return ",".join(cells)

    def find(self, source: str) -> Iterator[str]:
        """The rows of a CSV file whose header has all names; `-`: of standard input, as they arrive."""
        return (self.of_cells([cell or "" for cell in row]) for row in csv_rows(source, self.names))

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        if (num := content.count(b",") + 1) != self.size:
            raise UserError(self._wrong_size(num))
        cells = content.decode(errors="replace").split(",")
        values = [_number(cell) for cell in cells]
        for name, cell, value in zip(self.names, cells, values, strict=True):
            if value is None:
                raise UserError(f"{name} is {cell.strip()[:40] or 'empty'}; expected finite float32 numbers")
        return {self.entry: np.array(values, np.float32)}

    def from_json(self, value: Any) -> bytes:
        """Convert a list of numbers, or their CSV, to bytes of CSV."""
        if isinstance(value, str):
            return value.encode()
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers[: self.size]):
            raise ValueError("expected a list of numbers")
        if len(numbers) != self.size:
            raise ValueError(self._wrong_size(len(numbers)))
        return ",".join(map(repr, numbers)).encode()

    def example(self) -> Sample:
        return {self.entry: np.zeros(self.size, np.float32)}

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        return [{key: float(f"{x:.6g}") for key, x in zip(self.names, sample[self.entry].tolist(), strict=True)}]

    def html(self, sample: Sample) -> str:
        values = zip(self.names, sample[self.entry].tolist(), strict=True)
        return html.escape(", ".join(f"{key} {x:.6g}" for key, x in values))

    def _wrong_size(self, num: int) -> str:
        return f"it has {num} numbers; expected {self.size}: {', '.join(self.names[:20])}"


def _number(cell: str) -> float | None:
    """Return the number in a cell; None: it is not a finite float32."""
    try:
        value = float(cell) if len(cell) <= LONGEST and "_" not in cell else np.nan
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None
