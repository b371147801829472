"""Inputs and outputs that no shipped task has, and a predictor that makes them without a net."""

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from fastapi.testclient import TestClient

from lab.engine.config.compose import compose_config
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.verbs.predictor import Predictor
from lab.verbs.serve.server import build

WORDS = ClassLabel(["dark", "light", "<b>"], entry="word")


IMAGE, SIZE = Image(1, 2), Numbers(["width", "height"], entry="size")


SHADE = ClassLabel(["dark", "light"], entry="shade")


MEAN = Numbers(["level"], entry="mean")


PICTURE = Image(1, 2, entry="picture")


@dataclass(frozen=True)
class Points(Feature):
    """(3,) shares of the width of the item; those below 0 are none."""

    @property
    def entries(self):
        return ("points",)

    def rows(self, name, sample, inputs, top_k):
        return [{name: round(float(x * inputs["size"][0]), 1)} for x in sample["points"][:top_k] if x >= 0]


@dataclass(frozen=True)
class Anything(Feature):
    """A text of any kind, of which nothing is read."""

    @property
    def entries(self):
        return ("anything",)

    def example(self):
        return {"anything": np.zeros(1)}

    def read(self, items):
        return [self.example() for _ in items], ["" for _ in items]


def brightness(arrays):
    return arrays["image"].astype(np.float32).mean((1, 2, 3)) / 255


def made(outputs):
    """A function that makes the entries of these outputs from `image`, or from `index`."""

    def run(arrays):
        num = len(arrays["index"])
        level = brightness(arrays) if "image" in arrays else arrays["index"].astype(np.float32) / 10
        every = {
            "shade": np.stack([1 - level, level], 1),
            "mean": level[:, None],
            "picture": np.broadcast_to(level[:, None, None, None], (num, 1, 2, 2)),
            "points": np.stack([level, level / 2, level - 0.5], 1),
        }
        return {entry: every[entry] for feature in outputs.values() for entry in feature.entries}

    return run


def asks(inputs, outputs, **more):
    return Predictor(inputs, outputs, made(outputs), **more)


def png(level):
    file = io.BytesIO()
    PIL.Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Note(Feature):
    """A text that looks like a file."""

    @property
    def entries(self):
        return ("mean",)

    def rows(self, name, sample, inputs, top_k):
        return [{name: "data:image/png,<b>"}]


TWO = {"image": IMAGE, "text": WORDS}


def client(asked):
    return TestClient(build(compose_config("serve", ["model=x.onnx"]), asked, "x", {"testserver"}))
