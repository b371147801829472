"""Checks of pictures and boxes, before anything is trained."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lab.data.box_records import Labelled, Object, Problems
from lab.engine.errors import UserError
from lab.features.read_image import NUM_THREADS, displayed_size

SNAP = 256  # edges are rounded to 1 / SNAP pixels: the shares of YOLO have six digits
Edges = tuple[float, float, float, float]


@dataclass
class Picture:
    """A picture and its boxes in pixels, none of which is outside of the picture."""

    path: Path
    split: str | None
    size: tuple[int, int]  # width and height, as it is displayed
    boxes: list[Edges]
    names: list[str]  # the class of each box
    crowd: list[bool]


class Checked:
    """The pictures and boxes without faults, and what people should know about them.

    Args:
        pictures: as they are read.
        problems: faults that reading found; more are added.
    """

    def __init__(self, pictures: Sequence[Labelled], problems: Problems) -> None:
        self.problems, self.warnings = problems, list[str]()
        self.cut, self.twice = list[str](), list[str]()  # places of boxes
        self.kept: list[Picture] = []
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            sizes = list(pool.map(_size, pictures))
        for picture, size in zip(pictures, sizes, strict=True):
            try:
                if isinstance(size, str):
                    raise UserError(size)
                self._refuse_other_size(picture, size)
                self.kept.append(self._picture(picture, size))
            except UserError as error:
                self.problems.append(str(error))
        number = Counter(
            name for each in self.kept for name, crowd in zip(each.names, each.crowd, strict=True) if not crowd
        )
        self.class_names = sorted(number)
        self.max_boxes = max([1, *(len(each.boxes) for each in self.kept)])
        self.number = number

    def _refuse_other_size(self, picture: Labelled, size: tuple[int, int]) -> None:
        if picture.size in (None, size):
            return
        stated, shown = ("{} × {}".format(*each) for each in (picture.size, size))
        turned = "; EXIF rotates it, but the boxes do not fit the rotated picture" if picture.size == size[::-1] else ""
        raise UserError(f"{picture.place}: it says that {picture.path} has {stated} pixels; it has {shown}{turned}")

    def _picture(self, picture: Labelled, size: tuple[int, int]) -> Picture:
        made = Picture(picture.path, picture.split, size, [], [], [])
        seen = set()
        for each in picture.objects:
            try:
                edges = self._edges(each, size)
            except UserError as error:
                self.problems.append(str(error))
                continue
            if (each.name, edges) in seen:
                self.twice.append(each.place)
                continue
            seen.add((each.name, edges))
            made.boxes.append(edges)
            made.names.append(each.name)
            made.crowd.append(each.is_crowd)
        return made

    def _edges(self, each: Object, size: tuple[int, int]) -> Edges:
        """The edges in pixels, inside of the picture.

        Raises:
            UserError: the box has no class or no area, or is outside of the picture.
        """
        if not each.name:
            raise UserError(f"{each.place}: the box has no class")
        scale = size if each.is_share else (1, 1)
        x1, y1, x2, y2 = (x * side for x, side in zip(each.edges, (*scale, *scale), strict=True))
        shown = ", ".join(f"{x:g}" for x in (x1, y1, x2, y2))
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            raise UserError(f"{each.place}: the box {shown} is not finite")
        if not (x1 < x2 and y1 < y2):
            raise UserError(f"{each.place}: the box {shown} has no area; its right and lower edge should be larger")
        if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
            raise UserError(f"{each.place}: the box {shown} is outside of the picture of {size[0]} × {size[1]} pixels")
        if min(x1, y1) < -0.5 or x2 > size[0] + 0.5 or y2 > size[1] + 0.5:
            self.cut.append(each.place)
        x1, x2 = (min(max(round(x * SNAP) / SNAP, 0.0), size[0]) for x in (x1, x2))
        y1, y2 = (min(max(round(y * SNAP) / SNAP, 0.0), size[1]) for y in (y1, y2))
        if not (x1 < x2 and y1 < y2):
            raise UserError(f"{each.place}: the box {shown} is smaller than {1 / SNAP:g} pixels")
        return x1, y1, x2, y2

    def rarest(self, index: Sequence[int]) -> Tensor:
        """(N,) for each picture 1 + the index of its rarest class, 0 without boxes: drawn splits have all classes."""
        order = {name: i + 1 for i, name in enumerate(self.class_names)}
        rare = [
            min((n for n in self.kept[i].names if n in order), key=self.number.__getitem__, default=None) for i in index
        ]
        return torch.tensor([order[name] if name else 0 for name in rare])

    def describe(self, format_name: str) -> Iterator[str]:
        """Yield lines about the pictures and boxes, and fill `warnings`."""
        num, empty = sum(self.number.values()), sum(not each.boxes for each in self.kept)
        yield f"{num:,} boxes in {len(self.kept):,} pictures ({format_name}); counts of classes are boxes"
        if empty:
            yield f"{empty:,} pictures without boxes: they show what is no object"
        if crowd := sum(sum(each.crowd) for each in self.kept):
            yield f"{crowd:,} boxes of crowds or difficult objects: neither trained nor scored"
        for places, what in ((self.cut, "are cut at the edge of the picture"), (self.twice, "are there twice")):
            if places:
                self.warnings.append(f"{len(places):,} boxes {what}, such as {places[0]}")


def _size(picture: Labelled) -> tuple[int, int] | str:
    """The width and height of a picture; or why it cannot be read."""
    try:
        return displayed_size(str(picture.path))
    except UserError as error:
        return str(error).removeprefix("data: ").partition(". Repair")[0]
