from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from lab.features.base import Arrays, Sample
from lab.features.image import Image
from lab.features.read_image import fitted, read_letterboxed


@dataclass(frozen=True)
class Letterbox(Image):
    """A whole image that keeps its aspect ratio: resized to fit the upper left of a square; the rest is grey.

    The second entry, `original` (2,) int64, is the width and height of the image before that, in pixels.
    """

    @property
    def entries(self) -> tuple[str, ...]:
        return (self.entry, "original")

    @property
    def about(self) -> str:
        return f"at most {self.image_size} × {self.image_size} pixels"

    def load(self, file: str | BinaryIO) -> Sample:
        image, size = read_letterboxed(file, self.num_channels, self.image_size)
        return {self.entry: image, "original": np.array(size)}

    def example(self) -> Sample:
        return super().example() | {"original": np.array([self.image_size, self.image_size])}

    def mirrored(self, arrays: Arrays) -> Arrays | None:
        """Return None: the mirror image would have its padding on the other side."""
        return None


def without_padding(image: np.ndarray, original: np.ndarray) -> np.ndarray:
    """(C, S, S) letterboxed image and (2,) its original width and height -> (C, H, W) the part that is no padding."""
    width, height = fitted(int(original[0]), int(original[1]), image.shape[-1])
    return image[:, :height, :width]
