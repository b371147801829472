"""Pictures as arrays of a net's size, by PIL and NumPy alone: `lab predict model=FILE` does without torch."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from lab.errors import UserError

NUM_THREADS = 4  # that decode; each may hold a picture of MAX_IMAGE_PIXELS

warnings.simplefilter("error", Image.DecompressionBombWarning)  # more than MAX_IMAGE_PIXELS: refused, not decoded


def read_image(file: str | Path | BinaryIO, num_channels: int, image_size: int) -> np.ndarray:
    """The centre square of a file's (first) picture, (C, `image_size`, `image_size`) uint8.

    Any mode that PIL reads: transparency is laid on white, 16- and 32-bit grey is scaled by its largest value.

    Raises:
        UserError: it is not a readable image, or one of more pixels than PIL's MAX_IMAGE_PIXELS.
    """
    with _opened(file) as opened:
        opened.draft(None, (2 * image_size, 2 * image_size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 if enough
        picture = _eight_bits(ImageOps.exif_transpose(opened))
    picture = picture.convert("RGB" if num_channels == 3 else "L")
    picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(picture).reshape(image_size, image_size, num_channels).transpose(2, 0, 1).copy()


def num_pixels(file: str | Path | BinaryIO) -> int:
    """As a file's header says, without decoding the picture.

    Raises:
        UserError: it is not a readable image, or one of more pixels than PIL's MAX_IMAGE_PIXELS.
    """
    with _opened(file) as opened:
        return opened.width * opened.height


def read_images(files: Sequence[str], num_channels: int, image_size: int) -> tuple[np.ndarray, list[str]]:
    """(N, C, `image_size`, `image_size`) uint8 of those files that are readable, and of each file the error, or ""."""

    def read(file: str) -> np.ndarray | UserError:
        try:
            return read_image(file, num_channels, image_size)
        except UserError as error:
            return error

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        answers = list(pool.map(read, files))
    images = [answer for answer in answers if isinstance(answer, np.ndarray)]
    image = np.array(images, np.uint8).reshape(-1, num_channels, image_size, image_size)
    return image, [str(answer) if isinstance(answer, UserError) else "" for answer in answers]


def suffixes() -> tuple[str, ...]:
    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


@contextmanager
def _opened(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_formats()) as opened:
            yield opened
    except Exception as error:  # each format has errors of its own
        name = file if isinstance(file, str | Path) else "the file"
        reason = " ".join(str(error).split())
        raise UserError(f"data: {name} is not a readable image ({reason}). Mend or remove it.") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        level = np.asarray(picture, dtype=np.float64)
        if not np.isfinite(level).all():
            raise ValueError("it has pixels that are NaN or infinite")
        return Image.fromarray((level.clip(0) * (255 / max(level.max(), 1))).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


@cache
def _formats() -> list[str]:
    """All of PIL's but PostScript, which is a program, and would be run."""
    Image.init()
    return sorted(set(Image.OPEN) - {"EPS"})
