import base64
import codecs
import glob
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from lab.data.files import files_below, refuse_wide
from lab.data.read_image import num_pixels, read_image, read_images, suffixes
from lab.errors import UserError
from lab.inputs.base import Inputs, TooLargeError

BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Images(Inputs):
    """Files that PIL reads; (N, C, `image_size`, `image_size`) uint8."""

    num_channels: int
    image_size: int

    kind, item, column, content_types, in_json = "images", "image", "path", "image/", "<base64>"
    entry = "image"
    has_mirror_image = True

    @property
    def example(self) -> np.ndarray:
        return np.ones((2, self.num_channels, self.image_size, self.image_size), np.uint8)

    def find(self, source: str) -> list[str]:
        """A file, the images in a folder, a glob's files, or `-`: paths on standard input, a line each."""
        if source == "-":
            content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
            refuse_wide(content[:4], "error: input=-: it")
            lines = (line.removesuffix("\r") for line in os.fsdecode(content).split("\n"))
            paths = [line for line in lines if line.strip()]
        elif Path(source).is_dir():
            endings = suffixes()
            files = files_below(Path(source))
            paths = sorted(str(path) for path in files if path.suffix.lower() in endings and path.is_file())
        elif Path(source).is_file():
            paths = [source]
        else:
            paths = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())
        if not paths and Path(source).is_dir():
            raise UserError(f"error: input={source}: it is a folder without images.")
        if not paths and source == "-":
            raise UserError("error: input=-: standard input has no paths, one a line.")
        if not paths:
            raise UserError(f"error: input={source}: there is no such file or folder.")
        return paths

    def read(self, items: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        return read_images(items, self.num_channels, self.image_size)

    def decode(self, content: bytes, max_megapixels: float) -> np.ndarray:
        file = io.BytesIO(content)
        too_large = (
            f"The image has more than {max_megapixels} megapixels (of 16 or 32 bits, a third); send a smaller one."
        )
        try:
            if num_pixels(file) > 1e6 * max_megapixels:
                raise TooLargeError(too_large)
            return read_image(file, self.num_channels, self.image_size)
        except TooLargeError:
            raise
        except UserError as error:
            if isinstance(error.__cause__, BOMB):
                raise TooLargeError(too_large) from error
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise UserError("It is no image, or none of a known format.") from error
            raise UserError(f"The image can't be read: {error.__cause__}.") from error

    def of_json(self, text: str) -> bytes:
        """Decode base64: with line breaks, in the URL alphabet, without padding, or as a data URL."""
        text = "".join(re.sub(r"^\s*data:[^,]*,", "", text, flags=re.IGNORECASE).split()).rstrip("=")
        padded = text + "=" * (-len(text) % 4)
        return base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)

    def stack(self, items: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(items)

    def html(self, item: np.ndarray) -> str:
        return picture(item.transpose(1, 2, 0), "the image as the net sees it")


def picture(pixels: np.ndarray, alt: str) -> str:
    """Of (H, W, C) uint8, in HTML."""
    with io.BytesIO() as file:
        Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<img src="{url}" alt="{alt}">'
