"""Pictures of handwritten digits on cluttered grounds, drawn when they are needed: nothing is downloaded.

A scene is a pure function of (split, seed, index). No digit of scikit-learn's 1,797 is in two splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lab.data.batches import Batch, Batches
from lab.data.boxes import BoxData, box_facts, padded_boxes
from lab.data.data_report import digest
from lab.data.facts import Facts
from lab.data.pixels import channel_statistics
from lab.engine.constraints import Fraction
from lab.features.letterbox import Letterbox

DIGITS = tuple("0123456789")
COLOURS = {
    "red": (214, 48, 40), "orange": (240, 140, 20), "yellow": (245, 215, 50), "green": (40, 160, 70),
    "cyan": (40, 190, 200), "blue": (45, 85, 205), "purple": (135, 60, 180), "pink": (240, 130, 180),
    "white": (245, 245, 245), "black": (20, 20, 20),
}  # fmt: skip
RANGES = {"train": (0, 1197), "val": (1197, 1497), "test": (1497, 1797)}  # of the digits, in a fixed random order
TILE = 48  # pixels of the side of an enlarged digit
INK = 127  # a pixel with more opacity belongs to the digit
OPAQUE = [255 * (level > INK) for level in range(256)]
NUM_TRIES = 20  # places for a digit before it is left out


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it. A later digit is in front of an earlier one.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) float32, the extent of each digit's ink, also where another digit covers it.
        label: (N,) int64.
        colours: the name of the colour of each digit.
    """

    image: np.ndarray
    boxes: np.ndarray
    label: np.ndarray
    colours: list[str]


@dataclass(frozen=True)
class Difficulty:
    """How hard scenes are.

    Args:
        side: pixels of a picture's side.
        max_digits: a scene has 0 to this number of digits.
        min_height: pixels of the smallest digit; heights are uniform in their logarithm.
        max_height: of the largest.
        rotation: the largest angle, degrees.
        contrast: the smallest difference of luminance between a digit and the ground, of 255.
        overlap: the largest share of the smaller of two boxes that the other covers.
        clutter: a scene has 0 to this number of lines and triangles.
        grain: the largest standard deviation of the noise of a pixel, of 255.
    """

    side: PositiveInt = 128
    max_digits: PositiveInt = 8
    min_height: PositiveFloat = 12
    max_height: PositiveFloat = 48
    rotation: NonNegativeFloat = 25
    contrast: NonNegativeFloat = 40
    overlap: Fraction = 0.3
    clutter: NonNegativeInt = 4
    grain: NonNegativeFloat = 8


def draw_scene(split: Literal["train", "val", "test"], seed: int, index: int, how: Difficulty) -> Scene:
    """Draw a scene. Everything that is drawn at random comes from one generator of (split, seed, index)."""
    random = np.random.default_rng((list(RANGES).index(split), seed, index))
    canvas, base = _ground(random, how.side)
    _clutter(random, canvas, how)
    inks = [name for name, rgb in COLOURS.items() if abs(_luminance(rgb) - _luminance(base)) > how.contrast]
    boxes: list[np.ndarray] = []
    label, colours = [], []
    for _ in range(random.integers(0, how.max_digits + 1)):
        number, alpha, inner = _digit(random, split, how)
        colour = str(random.choice(inks)) if inks else "black"
        place = _place(random, inner, boxes, how)
        if place is None:
            continue
        canvas.paste(COLOURS[colour], (place[0] - inner[0], place[1] - inner[1]), alpha)
        width, height = inner[2] - inner[0], inner[3] - inner[1]
        boxes.append(np.array([place[0], place[1], place[0] + width, place[1] + height], np.float32))
        label.append(number)
        colours.append(colour)
    noise = random.standard_normal((how.side, how.side, 1), np.float32) * random.uniform(0, how.grain)
    image = (np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32).reshape(-1, 4), np.array(label, np.int64), colours)


def _ground(random: np.random.Generator, side: int) -> tuple[Image.Image, np.ndarray]:
    """One colour, or soft or hard patches around it."""
    base, kind = random.integers(0, 256, 3), random.integers(3)
    if kind == 0:
        return Image.new("RGB", (side, side), tuple(base.tolist())), base
    num, spread = (int(random.choice([2, 4, 8, 16])), 35) if kind == 1 else (2, 60)
    grey, colour = random.normal(0, spread / 2, (num, num, 1)), random.normal(0, spread / 4, (num, num, 3))
    patches = Image.fromarray((base + grey + colour).clip(0, 255).astype(np.uint8))
    smoothing = Image.Resampling.BICUBIC if random.random() < 0.7 else Image.Resampling.NEAREST
    return patches.resize((side, side), smoothing), base


def _clutter(random: np.random.Generator, canvas: Image.Image, how: Difficulty) -> None:
    """Lines and triangles. There are no rings: a thin ring is a zero."""
    pencil = ImageDraw.Draw(canvas)
    for _ in range(random.integers(0, how.clutter + 1)):
        x, y, u, v = random.integers(0, how.side, 4).tolist()
        ink = tuple(random.integers(0, 256, 3).tolist())
        if random.random() < 0.5:
            pencil.line((x, y, u, v), ink, int(random.integers(1, 4)))
        else:
            pencil.polygon([(x + a, y + b) for a, b in random.integers(-12, 13, (3, 2)).tolist()], outline=ink)


def _digit(random: np.random.Generator, split: str, how: Difficulty) -> tuple[int, Image.Image, tuple[int, ...]]:
    """A digit of the split, turned and resized: its class, its opacity, and the extent of its ink in that."""
    tiles, label, heights = digit_tiles()
    i = int(random.choice(digits_of(split)[random.integers(len(DIGITS))]))
    zoom = heights[i] / np.exp(random.uniform(np.log(how.min_height), np.log(how.max_height)))
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    side = int(TILE / zoom * (abs(np.cos(angle)) + abs(np.sin(angle)))) + 2
    cos, sin, half = np.cos(angle) * zoom, np.sin(angle) * zoom, TILE / 2
    matrix = (cos, sin, half - (cos + sin) * side / 2, -sin, cos, half - (cos - sin) * side / 2)
    alpha = tiles[i].transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    extent = alpha.point(OPAQUE).getbbox()
    assert extent is not None
    return int(label[i]), alpha, extent


def _place(
    random: np.random.Generator, inner: tuple[int, ...], boxes: Sequence[np.ndarray], how: Difficulty
) -> tuple[int, int] | None:
    """The upper left corner of a digit that covers no other too much; None: there is no such place."""
    width, height = inner[2] - inner[0], inner[3] - inner[1]
    if max(width, height) > how.side:
        return None
    for _ in range(NUM_TRIES):
        x, y = int(random.integers(0, how.side - width + 1)), int(random.integers(0, how.side - height + 1))
        if all(_covered((x, y, x + width, y + height), box) <= how.overlap for box in boxes):
            return x, y
    return None


def _covered(a: Sequence[float], b: np.ndarray) -> float:
    """The share of the smaller of two boxes that is in both."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(width, 0) * max(height, 0) / smaller


def _luminance(rgb: Sequence[int] | np.ndarray) -> float:
    return float(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])


@cache
def digit_tiles() -> tuple[list[Image.Image], np.ndarray, np.ndarray]:
    """The digits in a fixed random order: opacity, enlarged to `TILE` pixels; class; height of the ink."""
    spec = find_spec("sklearn")  # locates the package; importing it takes two seconds
    assert spec is not None
    assert spec.origin is not None
    digits = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.int64)
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    tiles, heights = [], []
    for level in digits[:, :-1].reshape(-1, 8, 8):
        large = Image.fromarray(np.pad((level * 15.9).astype(np.uint8), 2)).resize(
            (TILE, TILE), Image.Resampling.BICUBIC
        )
        sharp = (((np.asarray(large, np.float32) - 60) / 110).clip(0, 1) * 255).astype(np.uint8)
        tiles.append(Image.fromarray(sharp))
        heights.append(np.ptp(np.nonzero(sharp > INK)[0]) + 1)
    return tiles, digits[:, -1], np.array(heights)


@cache
def digits_of(split: str) -> list[np.ndarray]:
    """The positions of the digits of each class in a split."""
    _, label, _ = digit_tiles()
    first, last = RANGES[split]
    return [first + np.nonzero(label[first:last] == kind)[0] for kind in range(len(DIGITS))]


class Scenes(Batches):
    """The scenes of a split. Each is drawn when a batch needs it: a scene of 128 pixels takes about a millisecond."""

    def __init__(
        self, split: Literal["train", "val", "test"], seed: int, index: Sequence[int], how: Difficulty
    ) -> None:
        self.split, self.seed, self.index, self.how = split, seed, index, how

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        scenes = [draw_scene(self.split, self.seed, self.index[i], self.how) for i in indices]
        boxes, label = padded_boxes([s.boxes for s in scenes], [s.label for s in scenes], self.how.max_digits)
        return {
            "image": torch.from_numpy(np.stack([scene.image.transpose(2, 0, 1) for scene in scenes])),
            "original": torch.full((len(scenes), 2), self.how.side),
            "boxes": torch.from_numpy(boxes),
            "box_label": torch.from_numpy(label),
            "box_crowd": torch.zeros(label.shape, dtype=torch.int64),
            "index": torch.as_tensor(indices),
        }

    def subset(self, indices: Sequence[int]) -> "Scenes":
        return Scenes(self.split, self.seed, [self.index[i] for i in indices], self.how)


class DigitScenes(BoxData):
    """Scenes of 0 to 8 handwritten digits, with exact boxes.

    Args:
        num_train: scenes in the training split; also `num_val` and `num_test`.
        difficulty: how hard they are.
    """

    num_for_statistics = 64  # scenes from which mean and standard deviation are computed

    def __init__(
        self,
        num_train: PositiveInt,
        num_val: PositiveInt,
        num_test: PositiveInt,
        difficulty: Difficulty | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.nums = {"train": num_train, "val": num_val, "test": num_test}
        how = difficulty or Difficulty()
        self.difficulty = replace(how, side=64) if self.tiny else how

    def read(self) -> tuple[dict[str, Batches], Facts]:
        splits = {
            name: Scenes(name, self.split_seed, range(min(num, 24) if self.tiny else num), self.difficulty)  # type: ignore[arg-type]
            for name, num in self.nums.items()
        }
        self.report.find("scenes drawn from scikit-learn's digits; no digit is in two splits")
        contents = {
            name: [digest(repr((name, split.seed, i, split.how)).encode()) for i in split.index]
            for name, split in splits.items()
        }
        self.report.describe(contents, self.names)
        some = splits["train"].__getitems__(range(min(len(splits["train"]), self.num_for_statistics)))["image"]
        image = Letterbox(3, self.difficulty.side, *channel_statistics(some))
        return dict(splits), box_facts(image, list(DIGITS), self.difficulty.max_digits, contents)
