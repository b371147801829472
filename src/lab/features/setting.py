import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import FiniteFloat

from lab.engine.errors import UserError
from lab.features.base import Feature, Row, Sample
from lab.features.files import lines


@dataclass(frozen=True)
class Setting(Feature):
    """A number with a default that changes how a prediction is made, such as the number of steps of a sampler.

    Args:
        usual: the default.
        smallest: the smallest number that is accepted.
        largest: the largest number that is accepted.
        is_integer: whether the number is an int64; otherwise it is a float32.
    """

    entry: str
    usual: FiniteFloat
    smallest: FiniteFloat
    largest: FiniteFloat
    is_integer: bool = False

    item, in_json = "number", "<number>"

    def __post_init__(self) -> None:
        if not self.smallest <= self.usual <= self.largest:
            raise ValueError(f"expected {self.smallest:g} <= {self.usual:g} <= {self.largest:g}")

    @property
    def about(self) -> str:
        return f"{self.smallest:.12g} to {self.largest:.12g}"

    @property
    def default(self) -> str:
        return f"{self.usual:.12g}"

    def find(self, source: str) -> Iterator[str]:
        """The lines of a file, each with a number; `-`: of standard input."""
        return lines(source, "a number")

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        text = content.decode(errors="replace").strip()
        try:
            value = float(text) if "_" not in text else math.nan
        except ValueError:
            value = math.nan
        whole = value.is_integer() or not self.is_integer
        if not (self.smallest <= value <= self.largest and whole):
            kind = "an integer" if self.is_integer else "a number"
            raise UserError(f"{text[:40] or 'nothing'}: expected {kind} from {self.about}")
        return {self.entry: np.array(int(value) if self.is_integer else value, self._dtype)}

    def from_json(self, value: Any) -> bytes:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("expected a number")
        return str(value).encode()

    def example(self) -> Sample:
        return {self.entry: np.array(self.usual, self._dtype)}

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        return [{name: sample[self.entry].item()}]

    def html(self, sample: Sample) -> str:
        return f"{sample[self.entry]:.6g}"

    @property
    def _dtype(self) -> type:
        return np.int64 if self.is_integer else np.float32
