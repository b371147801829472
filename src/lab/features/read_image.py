"""Read image files as arrays of the input size, with PIL and NumPy only: exported models need no torch."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.BmpImagePlugin import DibImageFile
from PIL.IcoImagePlugin import IcoFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from lab.engine.errors import UserError

# Formats whose headers give the decoded size. AVIF is missing: its frames may be larger than the size in the header.
# BLP, FITS, ICNS and IPTC hold files of other formats.
BOUNDED = (
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)
T = TypeVar("T")
PNG = b"\x89PNG\r\n\x1a\n"
GREY = 114  # of the padding of letterboxed images
NUM_THREADS = 4  # of decoding; each may hold an image of MAX_IMAGE_PIXELS

warnings.simplefilter("error", Image.DecompressionBombWarning)  # an image with too many pixels is refused, not decoded


def read_image(file: str | Path | BinaryIO, num_channels: int, image_size: int) -> np.ndarray:
    """Read the centre square of the first image in a file: (C, `image_size`, `image_size`) uint8.

    Transparent pixels are blended with white. Greyscale images of 16 or 32 bits are divided by their largest value.

    Raises:
        UserError: the file is not a readable image, or has more pixels than PIL's MAX_IMAGE_PIXELS.
    """
    picture, _ = _decoded(file, num_channels, image_size)
    picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(picture).reshape(image_size, image_size, num_channels).transpose(2, 0, 1).copy()


def read_letterboxed(
    file: str | Path | BinaryIO, num_channels: int, image_size: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read the whole first image in a file, resized to fit a square: see `fitted`.

    Returns:
        (C, `image_size`, `image_size`) uint8, with grey at the right or at the bottom; and the width and height of the
        image as it is displayed.

    Raises:
        UserError: as `read_image`.
    """
    picture, size = _decoded(file, num_channels, image_size)
    canvas = Image.new(picture.mode, (image_size, image_size), (GREY,) * num_channels)
    canvas.paste(picture.resize(fitted(*size, image_size), Image.Resampling.BILINEAR))
    return np.array(canvas).reshape(image_size, image_size, num_channels).transpose(2, 0, 1).copy(), size


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The width and height of an image that is resized until its longer side has `side` pixels.

    The computation is in integers. The exact ratio of an edge is `fitted / original`, which rounding makes different
    for width and height.
    """
    longest = max(width, height)
    new_width, new_height = (max(1, (2 * edge * side + longest) // (2 * longest)) for edge in (width, height))
    return new_width, new_height


def displayed_size(file: str | Path | BinaryIO) -> tuple[int, int]:
    """The width and height of the first image in a file as it is displayed, from its header.

    Raises:
        UserError: the file is not a readable image.
    """
    with _opened(file) as opened:
        return _displayed(opened)


def _displayed(opened: Image.Image) -> tuple[int, int]:
    """The size after the rotation that EXIF asks for."""
    width, height = opened.size
    is_turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


def _decoded(file: str | Path | BinaryIO, num_channels: int, image_size: int) -> tuple[Image.Image, tuple[int, int]]:
    """The image as it is displayed, with 8 bits, at least twice as large as `image_size`; and its original size."""
    with _opened(file) as opened:
        size = _displayed(opened)
        opened.draft(None, (2 * image_size, 2 * image_size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 if that suffices
        picture = to_eight_bits(ImageOps.exif_transpose(opened))
    return picture.convert("RGB" if num_channels == 3 else "L"), size


def num_pixels(file: BinaryIO) -> int:
    """Pixel count of the first image in a file, from its header. Pixels of 16 or 32 bits count three times.

    Raises:
        UserError: the file is not a readable image, has more pixels than PIL's MAX_IMAGE_PIXELS, or its format is not
            `BOUNDED`.
    """
    if num := _in_icon(file):  # PIL decodes an icon as it opens it
        return num
    with _opened(file) as opened:
        if opened.format not in BOUNDED:
            raise UnidentifiedImageError(f"{opened.format} is not accepted")
        return _count(opened)


def _in_icon(file: BinaryIO) -> int:
    """Pixel count of the image that PIL decodes from an .ico file; 0 for other files.

    It is read from the image itself, because the directory of the file may be wrong.
    """
    is_icon = file.read(4) == b"\0\0\1\0"
    file.seek(0)
    if not is_icon:
        return 0
    with _readable(file):
        offset = IcoFile(file).entry[0].offset
        file.seek(offset)
        is_png = file.read(8) == PNG
        file.seek(offset)
        picture = PngImageFile(file) if is_png else DibImageFile(file)  # the classes with which PIL decodes the image
        return _count(picture)


def _count(picture: Image.Image) -> int:
    """Number of pixels in memory while decoding. A tile of a TIFF file may be larger than the image."""
    tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
    tile = tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0)
    return max(picture.width * picture.height, tile) * (3 if _is_deep(picture) else 1)


def read_all(files: Sequence[str], read: Callable[[str], T]) -> tuple[list[T], list[str]]:
    """Read files in several threads. Return what `read` returns for the readable files, and each file's error or ""."""

    def attempt(file: str) -> tuple[list[T], str]:
        try:
            return [read(file)], ""
        except UserError as error:
            return [], str(error)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(attempt, files))
    return [each for one, _ in found for each in one], [error for _, error in found]


def suffixes() -> tuple[str, ...]:
    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


@contextmanager
def _opened(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    with _readable(file), Image.open(file, formats=_formats()) as opened:
        yield opened


@contextmanager
def _readable(file: str | Path | BinaryIO) -> Iterator[None]:
    """Convert any error of PIL to a UserError: each format has different errors."""
    try:
        yield
    except Exception as error:
        name = file if isinstance(file, str | Path) else "the file"
        reason = " ".join(str(error).split())
        raise UserError(f"data: {name} is not a readable image ({reason}). Repair or delete it.") from error


def to_eight_bits(picture: Image.Image) -> Image.Image:
    if _is_deep(picture):
        level = np.asarray(picture)
        if not np.isfinite([level.min(), level.max()]).all():
            raise ValueError("it has pixels that are NaN or infinite")
        scale, grey = 255 / max(float(level.max()), 1), np.empty(level.shape, np.uint8)
        for i, row in enumerate(level):  # the whole image as floats would take 8 times the memory
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
    """All formats of PIL except PostScript: its files are programs, which PIL would run."""
    Image.init()
    return sorted(set(Image.OPEN) - {"EPS"})
