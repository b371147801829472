"""Image files of every mode and shape become arrays."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lab.features.read_image import read_image

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_mode_is_read(mode, num_channels, tmp_path):
    left_black = Image.new("L", (30, 20))
    left_black.paste(255, (15, 0, 30, 20))
    picture = (
        left_black.convert("RGB").convert(mode)
        if mode in ("CMYK", "YCbCr", "HSV")
        else left_black.convert({"I;16": "I", "P": "L", "RGBA": "RGB"}.get(mode, mode))
    )
    picture = picture.convert(mode)
    if mode == "HSV":
        picture = picture.convert("RGB")  # no format stores it
    path = (
        tmp_path / f"picture.{'jpg' if mode in ('CMYK', 'YCbCr') else 'tiff' if mode in ('I', 'I;16', 'F') else 'png'}"
    )
    picture.save(path)
    image = read_image(path, num_channels, 8)
    assert image.shape == (num_channels, 8, 8)
    assert image.dtype == np.uint8
    assert image[:, :, :3].mean() < 20
    assert image[:, :, -3:].mean() > 235
    assert (read_image(BytesIO(path.read_bytes()), num_channels, 8) == image).all()


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 31), (400, 2), (1, 1), (8, 8)])
def test_the_centre_square_of_any_shape(width, height):
    """As large as the shorter side, and nothing beyond it but what a pixel at its edge is mixed with."""
    side = min(width, height)
    left, top, mixed = (width - side) // 2, (height - side) // 2, max(1, side // 8)
    picture = Image.new("L", (width, height), 255)
    picture.paste(0, (left - mixed, top - mixed, left + side + 1 + mixed, top + side + 1 + mixed))
    file = BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    assert read_image(file, 1, 8).max() == 0


def test_a_picture_stands_as_the_camera_was_held(tmp_path):
    picture = Image.new("L", (20, 20))
    picture.paste(255, (0, 0, 10, 20))  # white on the left; turned by a quarter, on top
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    image = read_image(str(tmp_path / "a.jpg"), 1, 20)[0]
    assert image[:8].mean() > 240
    assert image[12:].mean() < 15


def test_a_large_jpeg_is_decoded_no_larger_than_needed(tmp_path):
    left_black = Image.new("RGB", (1200, 800))
    left_black.paste((255, 0, 0), (600, 0, 1200, 800))
    left_black.save(tmp_path / "a.jpg", quality=95)
    left_black.save(tmp_path / "a.png")
    jpeg, png = (read_image(str(tmp_path / name), 3, 32).astype(int) for name in ("a.jpg", "a.png"))
    assert jpeg.shape == (3, 32, 32)
    assert abs(jpeg - png).max() <= 8


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"), 3, 8).min() == 255
