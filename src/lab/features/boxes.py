"""Objects in pictures: the boxes that a data set has, and those that a net finds. This module imports no torch.

A box is its left, upper, right and lower edge, in pixels. The right and the lower edge are exclusive: a box of one
pixel at the origin is 0, 0, 1, 1.
"""

import html
import io
from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.engine.constraints import Count, Fraction
from lab.engine.display import printable
from lab.features.base import Arrays, Feature, Row, Sample
from lab.features.image import pixels
from lab.features.letterbox import without_padding

EDGES = ("x1", "y1", "x2", "y2")
SMALLEST, LARGEST = 480, 1280  # pixels of the longer side of a drawn picture
SAME_IOU, SAME_SCORE = 0.99, 1e-4  # of a box in an exported file and the same box of the checkpoint
FAINTEST = 0.01  # boxes of a lower score are not compared
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")


@dataclass(frozen=True)
class Boxes(Feature):
    """The objects of a picture, in pixels of the image that the net gets.

    `boxes` (N, 4) float32; `box_label` (N,) int64, the class of each box, or -1: padding; `box_crowd` (N,) int64, 1:
    the box is a region that no score counts, such as a crowd.

    Args:
        class_names: the names of the classes.
        max_boxes: the number N, padding included.
    """

    class_names: list[str]
    max_boxes: Count

    fact_names = ("num_classes", "class_names")
    item, entry = "boxes", "boxes"

    @property
    def entries(self) -> tuple[str, ...]:
        return ("boxes", "box_label", "box_crowd")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def about(self) -> str:
        return f"{self.num_classes} classes"

    def caption(self, sample: Sample) -> str:
        label = sample["box_label"]
        return counted([self.class_names[i] for i in label[label >= 0]])


@dataclass(frozen=True)
class Detections(Feature):
    """The boxes that a net finds in a picture, the most certain first, in pixels of the original picture.

    `found_boxes` (N, 4) float32; `score` (N,) float32 in [0, 1]; `found_label` (N,) int64, the class, or -1: padding.

    Args:
        class_names: the names of the classes.
        threshold: boxes with a lower score are not shown.
    """

    class_names: list[str]
    threshold: Fraction

    fact_names = ("num_classes", "class_names")
    item, entry = "boxes", "found_boxes"
    many = ("class", "score", *EDGES)
    tolerance = 0.01  # rounding may decide whether two boxes overlap too much

    @property
    def entries(self) -> tuple[str, ...]:
        return ("found_boxes", "score", "found_label")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def explained(self) -> list[str]:
        return self.class_names

    @property
    def about(self) -> str:
        return f"boxes of {self.num_classes} classes"

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        """A row for each box: its class, its score and its edges in pixels of the original picture."""
        boxes, score, label = self._shown(sample)
        return [
            {"class": self.class_names[k], "score": round(float(s), 4)}
            | {edge: round(float(x), 1) for edge, x in zip(EDGES, box, strict=True)}
            for box, s, k in zip(boxes, score, label, strict=True)
        ]

    def file(self, sample: Sample, inputs: Sample) -> tuple[str, bytes]:
        """The picture with its boxes, as PNG."""
        boxes, score, label = self._shown(sample)
        names = [f"{self.class_names[k]} {s:.2f}" for k, s in zip(label, score, strict=True)]
        drawn = draw_boxes(inputs["image"], inputs["original"], boxes, label, names)
        with io.BytesIO() as file:
            drawn.save(file, "PNG")
            return ".png", file.getvalue()

    def html(self, sample: Sample) -> str:
        _, _, label = self._shown(sample)
        return html.escape(counted([self.class_names[k] for k in label]) or "no object")

    def _shown(self, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept = (sample["found_label"] >= 0) & (sample["score"] >= self.threshold)
        return sample["found_boxes"][kept], sample["score"][kept], sample["found_label"][kept]

    def difference(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) largest difference of the scores of each picture."""
        each: np.ndarray = abs(a["score"].astype(np.float64) - b["score"]).max(1)
        return each

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) bool, true if a box has no counterpart of its class: IoU 0.99, scores within 1e-4."""
        pairs = [
            [{name: arrays[name][i] for name in self.entries} for arrays in (a, b)] for i in range(len(a["score"]))
        ]
        return np.array([not (_has_all(one, other) and _has_all(other, one)) for one, other in pairs], bool)


def _has_all(one: Sample, other: Sample) -> bool:
    """Return whether each box of a picture that is not faint is also in `other`."""
    kept = one["score"] >= FAINTEST
    alike = (
        (box_iou(one["found_boxes"][kept], other["found_boxes"]) >= SAME_IOU)
        & (one["found_label"][kept][:, None] == other["found_label"])
        & (abs(one["score"][kept][:, None] - other["score"]) <= SAME_SCORE)
    )
    return bool(np.isfinite(one["score"]).all() and alike.any(1).all())


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) boxes -> (N, M) intersection over union."""
    size = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    both = size.clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1) for boxes in (a, b)]
    iou: np.ndarray = both / (areas[0][:, None] + areas[1] - both).clip(1e-9)
    return iou


def counted(names: list[str]) -> str:
    """Names with their number, such as "2 × cat, dog"."""
    return ", ".join(f"{number} × {name}" if number > 1 else name for name, number in Counter(names).items())


def draw_boxes(
    image: np.ndarray, original: np.ndarray, boxes: np.ndarray, label: np.ndarray, names: list[str]
) -> Image.Image:
    """Draw boxes into a picture.

    Args:
        image: (C, S, S) uint8, letterboxed.
        original: (2,) width and height of the original picture.
        boxes: (N, 4) in pixels of the original picture.
        label: (N,) class of each box, which sets its colour.
        names: the text at each box.
    """
    picture = Image.fromarray(pixels(without_padding(image, original)).squeeze()).convert("RGB")
    width, height = original.tolist()
    scale = min(max(1.0, SMALLEST / max(width, height)), LARGEST / max(width, height))
    drawn = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
    pencil, font = ImageDraw.Draw(drawn), _font()
    for box, kind, name in zip(boxes * scale, label, names, strict=True):
        colour, edges = COLOURS[kind % len(COLOURS)], box.tolist()
        x1, y1, x2, y2 = edges[0], edges[1], max(edges[0], edges[2] - 1), max(edges[1], edges[3] - 1)
        pencil.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), None, "white", 4)  # visible on any background
        pencil.rectangle((x1, y1, x2, y2), None, colour, 2)
        text = printable(name)
        place = edges[0] + 2, edges[1] - 15 if edges[1] > 15 else edges[1] + 1
        pencil.rectangle(pencil.textbbox(place, text, font), colour)
        pencil.text(place, text, "white", font)
    return drawn


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
