import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np
import PIL.Image
from PIL import UnidentifiedImageError
from pydantic import FiniteFloat, PositiveFloat

from lab.engine.constraints import Count
from lab.engine.errors import UserError
from lab.features.base import Arrays, Feature, Sample, TooLargeError
from lab.features.files import find_files, of_base64
from lab.features.read_image import num_pixels, read_all, read_image, suffixes

GAP = 2  # pixels between the images of a sheet
BOMB = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Image(Feature):
    """An image in any format that PIL reads, cropped to its centre square: (C, `image_size`, `image_size`) uint8.

    As an output, it is the same array, or floats in [0, 1].

    Args:
        mean: of each channel over the training split, in [0, 1]; the net gets (image - mean) / std. None: the net gets
            the image in [0, 1].
        std: the standard deviations.
    """

    num_channels: Count
    image_size: Count
    mean: list[FiniteFloat] | None = None
    std: list[PositiveFloat] | None = None
    entry: str = "image"

    fact_names = ("num_channels", "image_size")
    qualified_fact_names = ("mean", "std")
    item, column, content_types, in_json, accept = "image", "path", "image/", "<base64>", "image/*"
    explainer = "lab.verbs.explain.images.ImageExplainer"

    def __post_init__(self) -> None:
        if {len(values) for values in (self.mean, self.std) if values is not None} - {self.num_channels}:
            raise ValueError(f"expected mean and std of {self.num_channels} channels")

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The mean and standard deviation of each channel, in [0, 1]; 0 and 1 if none are set."""
        return tuple(self.mean or [0.0] * self.num_channels), tuple(self.std or [1.0] * self.num_channels)

    @property
    def about(self) -> str:
        return f"{self.image_size} × {self.image_size} pixels"

    def changes(self, now: Self) -> list[str]:
        """The statistics may change: a run keeps those that it was trained with."""
        return [name for name in super().changes(now) if name not in self.qualified_fact_names]

    def example(self) -> Sample:
        return {self.entry: np.ones((self.num_channels, self.image_size, self.image_size), np.uint8)}

    def mirrored(self, arrays: Arrays) -> Arrays | None:
        return arrays | {self.entry: np.ascontiguousarray(arrays[self.entry][..., ::-1])}

    def find(self, source: str) -> list[str]:
        """A file, the images in a folder, the files of a glob pattern; `-`: paths on standard input, one per line."""
        return find_files(source, suffixes(), "images")

    def read(self, items: Sequence[str]) -> tuple[list[Sample], list[str]]:
        return read_all(items, self.load)

    def load(self, file: str | BinaryIO) -> Sample:
        """The sample in a file.

        Raises:
            UserError: the file is not a readable image.
        """
        return {self.entry: read_image(file, self.num_channels, self.image_size)}

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        file = io.BytesIO(content)
        too_large = (
            f"The image has more than {max_megapixels} megapixels (of 16 or 32 bits, a third); send a smaller one."
        )
        try:
            if num_pixels(file) > 1e6 * max_megapixels:
                raise TooLargeError(too_large)
            return self.load(file)
        except TooLargeError:
            raise
        except UserError as error:
            if isinstance(error.__cause__, BOMB):
                raise TooLargeError(too_large) from error
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise UserError("The file is not an image, or its format is unknown.") from error
            raise UserError(f"The image can't be read: {error.__cause__}.") from error

    def from_json(self, value: Any) -> bytes:
        """Decode base64, also with line breaks, in the URL alphabet, without padding, or as a data URL."""
        return of_base64(super().from_json(value).decode())

    def thumbnails(self, arrays: Arrays) -> np.ndarray:
        image = arrays[self.entry]
        return image / np.float32(255) if image.dtype == np.uint8 else image

    def file(self, sample: Sample, inputs: Sample) -> tuple[str, bytes]:
        return ".png", png(pixels(sample[self.entry]))

    def sheet(self, samples: Sequence[Sample]) -> tuple[str, bytes]:
        return ".png", png(tiled([pixels(sample[self.entry]) for sample in samples]))

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) bool, true if a pixel differs by more than 0.001, a quarter of a grey level; uint8 by any amount."""
        if a[self.entry].dtype == np.uint8:
            return super().differs(a, b)
        same = abs(a[self.entry].astype(np.float64) - b[self.entry]) <= 0.001  # false for NaN
        return np.asarray(~same.reshape(len(same), -1).all(1))

    def html(self, sample: Sample) -> str:
        return picture(pixels(sample[self.entry]), "the image as the net sees it")


def pixels(image: np.ndarray) -> np.ndarray:
    """(C, H, W) uint8, or floats in [0, 1] -> (H, W, C) uint8."""
    if image.dtype != np.uint8:
        image = (255 * image.clip(0, 1)).round().astype(np.uint8)
    return image.transpose(1, 2, 0)


def tiled(levels: Sequence[np.ndarray]) -> np.ndarray:
    """N × (H, W, C) uint8 -> one image with all of them in a grid, about as wide as high, on white."""
    height, width, channels = levels[0].shape
    columns = math.ceil(math.sqrt(len(levels)))
    rows = -(-len(levels) // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for i, level in enumerate(levels):
        y, x = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        sheet[y : y + height, x : x + width] = level
    return sheet


def png(level: np.ndarray) -> bytes:
    """(H, W, C) uint8 -> the content of a PNG file."""
    with io.BytesIO() as file:
        PIL.Image.fromarray(level if level.shape[2] == 3 else level[..., 0]).save(file, "PNG")
        return file.getvalue()


def picture(level: np.ndarray, alt: str) -> str:
    """(H, W, C) uint8 -> an HTML element."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png(level)).decode()}" alt="{alt}">'
