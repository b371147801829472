"""Pictures as arrays of a net's size, by PIL and NumPy alone: `lab predict model=FILE` does without torch."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lab.errors import UserError

UNBOUNDED = ("BLP", "FITS", "ICNS", "IPTC")  # they hold files of other formats, of any size
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


def num_pixels(file: BinaryIO) -> int:
    """As a file's headers say, without decoding the picture; one of 16 or 32 bits counts as three.

    Raises:
        UserError: it is not a readable image, or one of more pixels than PIL's MAX_IMAGE_PIXELS, or of a format whose
            header does not say what is decoded.
    """
    if icons := _in_icon(file):  # PIL decodes it where it opens it
        return max(icons)
    with _opened(file) as opened:
        if opened.format in UNBOUNDED:
            raise UnidentifiedImageError(f"{opened.format} is not taken")
        return opened.width * opened.height * (3 if _is_deep(opened) else 1)


def _in_icon(file: BinaryIO) -> list[int]:
    """The pixels of each picture in an .ico file, of which its directory may say another size; none in another file."""
    start = file.read(6)
    entries = file.read(16 * int.from_bytes(start[4:], "little")) if start[:4] == b"\0\0\1\0" else b""
    found = []
    for i in range(12, len(entries), 16):
        file.seek(int.from_bytes(entries[i : i + 4], "little"))
        head = file.read(24).ljust(24, b"\0")
        is_png = head.startswith(b"\x89PNG")
        width, height = struct.unpack(">ii", head[16:24]) if is_png else struct.unpack("<ii", head[4:12])
        found.append(abs(width * height))
    file.seek(0)
    return found


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
    if _is_deep(picture):
        level = np.asarray(picture)
        if not np.isfinite([level.min(), level.max()]).all():
            raise ValueError("it has pixels that are NaN or infinite")
        scale, grey = 255 / max(float(level.max()), 1), np.empty(level.shape, np.uint8)
        for i, row in enumerate(level):  # the whole as floats would take many times its memory
            grey[i] = row.astype(np.float64).clip(0) * scale
        return Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith(("I", "F"))


@cache
def _formats() -> list[str]:
    """All of PIL's but PostScript, which is a program, and would be run."""
    Image.init()
    return sorted(set(Image.OPEN) - {"EPS"})
