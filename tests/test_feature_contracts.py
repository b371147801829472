"""The contract of every feature; that of texts is in test_tokens.py."""

from io import BytesIO

import numpy as np
from PIL import Image as Picture

from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.testing import FeatureContract


def png(*size):
    file = BytesIO()
    Picture.new("RGB", size, (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


class TestImage(FeatureContract):
    feature = Image(num_channels=3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3)
    contents = (png(9, 9), png(20, 4))
    samples = ({"image": np.full((3, 8, 8), 7, np.uint8)}, {"image": np.full((3, 8, 8), 255, np.uint8)})


class TestImageOfFloats(FeatureContract):
    feature = Image(num_channels=1, image_size=2)
    samples = ({"image": np.array([[[0, 1.5], [-0.5, 1]]], np.float32)},)


class TestClassLabel(FeatureContract):
    feature = ClassLabel(["a", "b"])
    contents = (b"a", b"b")
    samples = ({"label": np.array([0.2, 0.8], np.float32)}, {"label": np.array([0.9, 0.1], np.float32)})


class TestNumbers(FeatureContract):
    feature = Numbers(["x", "y"])
    contents = (b"1,2", b"3.5,4")
    samples = ({"numbers": np.array([1, 2], np.float32)},)
