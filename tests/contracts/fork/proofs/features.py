"""The features of the detector. They import no torch, so that an exported file needs none."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from lab.engine.errors import UserError
from lab.features.base import Feature, Row, Sample
from lab.features.image import Image


@dataclass(frozen=True)
class Photo(Image):
    """A picture squeezed into a square, and its own size: `original` (2,) float32, height and width in pixels."""

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.entry, "original")

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        try:
            picture = PIL.Image.open(io.BytesIO(content)).convert("L")
        except (OSError, ValueError) as error:
            raise UserError("It is not a picture.") from error
        small = np.array(picture.resize((self.image_size, self.image_size)))[None]
        return {self.entry: small, "original": np.array([picture.height, picture.width], np.float32)}

    def read(self, items: Any) -> tuple[list[Sample], list[str]]:
        samples, errors = [], []
        for path in items:
            try:
                samples.append(self.decode(open(path, "rb").read(), np.inf))  # noqa: SIM115
                errors.append("")
            except (OSError, UserError) as error:
                errors.append(str(error))
        return samples, errors

    def example(self) -> Sample:
        return super().example() | {"original": np.ones(2, np.float32)}


@dataclass(frozen=True)
class Boxes(Feature):
    """(N, 4) corners x0, y0, x1, y1 in [0, 1] of each picture's side; `box_label` (N,) is 0, or -1: there is none."""

    max_boxes: int
    prefix: str = ""

    fact_names = ("max_boxes",)

    @property
    def entries(self) -> tuple[str, ...]:
        return (f"{self.prefix}boxes", f"{self.prefix}box_label")

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        """The boxes in pixels of the original picture."""
        boxes, label = (sample[entry] for entry in self.entries)
        height, width = inputs["original"]
        kept = boxes[label >= 0].astype(float) * [width, height, width, height]
        return [{name: json.dumps(kept.round(1).tolist())}]
