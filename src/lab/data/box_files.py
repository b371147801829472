"""Pictures with boxes in your own files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveInt

from lab.data import tiny
from lab.data.batches import Batch, Batches, Tensors
from lab.data.box_checks import Checked, Picture
from lab.data.box_formats import read_boxes
from lab.data.boxes import BoxData, box_facts, padded_boxes
from lab.data.data_report import digest
from lab.data.facts import Facts
from lab.data.pixels import channel_statistics
from lab.data.split import SPLITS
from lab.engine.constraints import Share
from lab.engine.display import in_utf8
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.features.letterbox import Letterbox
from lab.features.read_image import fitted, read_letterboxed

SMALLEST, LARGEST, STEP = 128, 320, 32  # pixels of `image_size` if it is chosen from the data
OBJECT = 16  # pixels that nine in ten objects should have then


class BoxFiles(BoxData):
    """Pictures with boxes in COCO JSON, Pascal VOC XML, YOLO txt or a CSV table; the content tells which.

    Splits are those of the files: folders or files named train, val and test, VOC's `ImageSets`, a column `split`.
    Otherwise they are drawn. A missing val or test split is drawn from train.

    Args:
        root: a folder with the pictures and the boxes, or a file with boxes next to the pictures.
        image_size: the longer side of a picture is resized to this number of pixels, a multiple of 32. null: nine in
            ten objects get 16 pixels or more, with 128 to 320 pixels for the picture.
        num_channels: 3: colour; 1: greyscale.
        val_fraction: share of the pictures in the validation split, if the files have none.
        test_fraction: share of the pictures in the test split, if the files have none.
        skip_unreadable: leave out pictures and boxes with faults; false: they are an error.
        cache: decode every picture once and keep it in memory.
    """

    num_for_statistics = 300

    def __init__(
        self,
        root: str | None,
        image_size: PositiveInt | None,
        num_channels: Literal[1, 3],
        val_fraction: Share,
        test_fraction: Share,
        skip_unreadable: bool = False,
        cache: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if image_size is not None and image_size % STEP:
            raise UserError(f"data.image_size={image_size}: expected a multiple of {STEP}.")
        self.root, self.image_size, self.num_channels, self.cache = root, image_size, num_channels, cache
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.skip_unreadable = skip_unreadable

    def read(self) -> tuple[dict[str, Batches], Facts]:
        if self.root is None and not self.tiny:
            raise UserError("data.root: expected your pictures and boxes; set data.root=PATH.")
        root = tiny.written(write_tiny) if self.tiny else expanded(self.root or "")
        checked = self._checked(root)
        known = self.known("objects")
        names = known.class_names if known else checked.class_names
        side = self.image_size or self._known_size() or chosen_size(checked.kept)
        splits = self._splits(checked)
        parts = {
            split: BoxPictures([checked.kept[i] for i in index], names, checked.max_boxes, side, self.num_channels)
            for split, index in splits.items()
        }
        folder = root if root.is_dir() else root.parent
        self.names = {
            split: [each.path.relative_to(folder).as_posix() for each in part.kept] for split, part in parts.items()
        }
        contents = {split: part.contents() for split, part in parts.items()}
        self.report.describe(contents, self.names)
        self.report.count_classes({split: part.labels() for split, part in parts.items()}, names)
        train = parts["train"]
        some = train.__getitems__(range(0, len(train), -(-len(train) // self.num_for_statistics)))["image"]
        image = Letterbox(self.num_channels, side, *channel_statistics(some))
        return self._cached(parts), box_facts(image, list(map(in_utf8, names)), checked.max_boxes, contents)

    def _checked(self, root: Path) -> Checked:
        """The pictures and boxes without faults; the report gets what is found and left out.

        Raises:
            UserError: there are faults and `skip_unreadable` is false, or there are no boxes.
        """
        pictures, problems, name = read_boxes(root)
        checked = Checked(pictures, problems)
        total = len(pictures) + sum(len(picture.objects) for picture in pictures) + len(problems)
        self.report.refuse("pictures and boxes", checked.problems, total, root, self.skip_unreadable)
        for line in checked.describe(name):
            self.report.find(line)
        self.report.warnings += checked.warnings
        if not checked.class_names:
            raise UserError(f"data.root: {root} has {len(checked.kept)} pictures, but no box of a class.")
        return checked

    def _known_size(self) -> int | None:
        feature = self.known("image")
        return feature.image_size if feature else None

    def _splits(self, checked: "Checked") -> dict[str, list[int]]:
        """The pictures of each split. A drawn split has the same share of each picture's rarest class."""
        stated = {name: [i for i, each in enumerate(checked.kept) if each.split == name] for name in SPLITS}
        stated = {name: index for name, index in stated.items() if index}
        without = [each for each in checked.kept if each.split is None]
        if not stated:
            return self.draw(checked.rarest(range(len(checked.kept))), self.fractions)
        if without:
            raise UserError(
                f"data.root: {without[0].path} is in no split, but other pictures are in {' and '.join(stated)}."
            )
        if "train" not in stated:
            raise UserError(f"data.root: the files have {' and '.join(stated)}, but no train split.")
        missing = {name: share for name, share in self.fractions.items() if name not in stated}
        parts = self.draw(checked.rarest(stated["train"]), missing, num_test=len(stated.get("test", ())))
        return stated | {name: [stated["train"][i] for i in index] for name, index in parts.items()}

    def _cached(self, parts: dict[str, "BoxPictures"]) -> dict[str, Batches]:
        if not self.cache:
            return dict(parts)
        batches = {split: part.__getitems__(range(len(part))) for split, part in parts.items()}
        return {split: Tensors(**{k: v for k, v in batch.items() if k != "index"}) for split, batch in batches.items()}


class BoxPictures(Batches):
    """Pictures on disk with their boxes, decoded for each batch."""

    def __init__(
        self, kept: Sequence[Picture], class_names: Sequence[str], max_boxes: int, side: int, num_channels: int
    ) -> None:
        self.kept, self.class_names, self.max_boxes = kept, class_names, max_boxes
        self.side, self.num_channels = side, num_channels
        numbers = {name: i for i, name in enumerate(class_names)}
        kinds = [np.array([numbers.get(name, -1) for name in each.names], np.int64) for each in kept]
        scaled = [self._on_canvas(each) for each in kept]
        boxes, label = padded_boxes(scaled, kinds, max_boxes)
        _, crowd = padded_boxes(scaled, [np.array(each.crowd, np.int64) for each in kept], max_boxes)
        self.tensors = {
            "original": torch.tensor([each.size for each in kept]).reshape(-1, 2),
            "boxes": torch.from_numpy(boxes),
            "box_label": torch.from_numpy(label),
            "box_crowd": torch.from_numpy((crowd == 1).astype(np.int64)),
        }

    def _on_canvas(self, picture: Picture) -> np.ndarray:
        """(N, 4) boxes in pixels of the letterboxed picture."""
        ratio = np.array(fitted(*picture.size, self.side)) / picture.size
        return np.array(picture.boxes, np.float64).reshape(-1, 4) * np.tile(ratio, 2)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        pictures = [read_letterboxed(str(self.kept[i].path), self.num_channels, self.side)[0] for i in indices]
        rows = {name: values[index] for name, values in self.tensors.items()}
        return {"image": torch.from_numpy(np.stack(pictures)), **rows, "index": index}

    def subset(self, indices: Sequence[int]) -> "BoxPictures":
        kept = [self.kept[i] for i in indices]
        return BoxPictures(kept, self.class_names, self.max_boxes, self.side, self.num_channels)

    def contents(self) -> list[bytes]:
        """A digest of each picture's file, its size and its boxes."""
        return [
            digest(each.path.read_bytes(), repr((each.size, each.boxes, each.names, each.crowd)).encode())
            for each in self.kept
        ]

    def labels(self) -> list[int]:
        """The classes of all boxes that count."""
        label, crowd = self.tensors["box_label"], self.tensors["box_crowd"]
        found: list[int] = label[(label >= 0) & (crowd == 0)].tolist()
        return found


def chosen_size(kept: Sequence[Picture]) -> int:
    """The side in pixels that gives nine in ten objects `OBJECT` pixels, and no more than the largest picture has."""
    shares = [
        max(((x2 - x1) * (y2 - y1)) ** 0.5, 1.0) / max(each.size) for each in kept for x1, y1, x2, y2 in each.boxes
    ]
    wanted = min(OBJECT / float(np.quantile(shares, 0.1)), max(max(each.size) for each in kept), LARGEST)
    return max(SMALLEST, STEP * round(wanted / STEP))


def write_tiny(root: Path) -> None:
    """40 pictures of bright rectangles of two classes, wide and tall, in COCO's format."""
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for i in range(40):
        level = random.integers(0, 60, (48, 64, 3), np.uint8)
        for kind, (width, height) in ((1, (24, 12)), (2, (12, 24))):
            x, y = int(random.integers(0, 64 - width)), int(random.integers(0, 48 - height))
            level[y : y + height, x : x + width] = (250, 60, 60) if kind == 1 else (60, 60, 250)
            rows.append({"id": len(rows), "image_id": i, "category_id": kind, "bbox": [x, y, width, height]})
        Image.fromarray(level).save(root / f"{i:02d}.png")
        images.append({"id": i, "file_name": f"{i:02d}.png", "width": 64, "height": 48})
    kinds = [{"id": 1, "name": "wide"}, {"id": 2, "name": "tall"}]
    (root / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": kinds}), encoding="utf-8"
    )
