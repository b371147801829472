"""Readers of boxes in COCO's JSON and in Pascal VOC's XML.

Classes are compared by name: a `category_id` only points to a name.
"""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lab.data.box_records import Found, Labelled, Object, Problems, number
from lab.data.read_table import read_utf8
from lab.data.split import SPLITS
from lab.engine.errors import UserError

# COCO


def is_coco(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    with open(path, "rb") as file:
        head = file.read(1 << 20)
    return b'"images"' in head or b'"annotations"' in head


def read_coco(found: Found, files: list[Path]) -> tuple[list[Labelled], Problems]:
    pictures: list[Labelled] = []
    problems: Problems = []
    for file in files:
        try:
            content = json.loads(read_utf8(file))
            parts = [content[key] for key in ("images", "annotations", "categories")]
            if not all(isinstance(part, list) and all(isinstance(row, dict) for row in part) for part in parts):
                raise ValueError("images, annotations and categories should be lists of objects")
        except (ValueError, TypeError, KeyError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"data: {file}: expected COCO JSON: {reason}.") from error
        images, rows, kinds = parts
        of_file = _Coco(found, file, images, rows, kinds, problems)
        pictures += of_file.pictures.values()
    return pictures, problems


class _Coco:
    """The content of a COCO file."""

    def __init__(
        self, found: Found, file: Path, images: list[Any], rows: list[Any], kinds: list[Any], problems: Problems
    ) -> None:
        self.found, self.file = found, file
        self.pictures: dict[Any, Labelled] = {}
        self.names = {row.get("id"): str(row.get("name", "")) for row in kinds}
        missing = set()  # the ids of pictures with a fault, which is told once
        for i, row in enumerate(images):
            try:
                self._add_image(row, f"{file}, images[{i}]")
            except UserError as error:
                problems.append(str(error))
                missing.add(row.get("id"))
        for i, row in enumerate(rows):
            try:
                if row.get("image_id") not in missing:
                    self._add_box(row, f"{file}, annotations[{i}]")
            except UserError as error:
                problems.append(str(error))

    def _add_image(self, row: dict[str, Any], place: str) -> None:
        path = self.found.image(str(row.get("file_name", "")), place, self.file)
        sides = row.get("width"), row.get("height")
        size = (sides[0], sides[1]) if isinstance(sides[0], int) and isinstance(sides[1], int) else None
        split = self.found.split(path) or self.found.split(self.file)
        if row.get("id") in self.pictures:
            raise UserError(f"{place}: the id {row.get('id')} belongs to two pictures")
        self.pictures[row.get("id")] = Labelled(path, place, split, size)

    def _add_box(self, row: dict[str, Any], place: str) -> None:
        picture = self.pictures.get(row.get("image_id"))
        if picture is None:
            raise UserError(f"{place}: image_id is {row.get('image_id')}, but no picture has this id")
        if row.get("category_id") not in self.names:
            raise UserError(f"{place}: category_id is {row.get('category_id')}, but no category has this id")
        box = row.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise UserError(f"{place}: bbox is {str(box)[:40]}; expected x, y, width, height")
        x, y, width, height = (number(value, "bbox", place) for value in box)
        edges = (x, y, x + width, y + height)
        is_crowd = bool(row.get("iscrowd"))
        picture.objects.append(Object(self.names[row["category_id"]], edges, place, is_crowd=is_crowd))


# Pascal VOC


def is_voc(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def read_voc(found: Found, files: list[Path]) -> tuple[list[Labelled], Problems]:
    pictures: list[Labelled] = []
    problems: Problems = []
    splits = _voc_splits(found)
    for file in files:
        try:
            tree = ElementTree.fromstring(read_utf8(file))  # expat limits the expansion of entities
            pictures.append(_of_voc(found, file, tree, splits, problems))
        except ElementTree.ParseError as error:
            problems.append(f"{file} is not XML ({error})")
        except UserError as error:
            problems.append(str(error))
    return pictures, problems


def _voc_splits(found: Found) -> dict[str, str]:
    """The split of each stem in the lists `ImageSets/Main/train.txt`, `val.txt` and `test.txt`."""
    splits: dict[str, str] = {}
    for path in found.others:
        if path.parent.name == "Main" and path.suffix == ".txt" and path.stem in SPLITS:
            splits |= {line.split()[0]: path.stem for line in read_utf8(path).splitlines() if line.strip()}
    return splits


def _of_voc(
    found: Found, file: Path, tree: ElementTree.Element, splits: dict[str, str], problems: Problems
) -> Labelled:
    name = (tree.findtext("filename") or "").strip()
    try:
        path = found.image(name, str(file), file)
    except UserError:
        path = found.image(file.stem, str(file), file)  # tools rename pictures, but not the entry
    sides = tree.findtext("size/width"), tree.findtext("size/height")
    size = (int(sides[0]), int(sides[1])) if all(side and side.isdigit() and int(side) for side in sides) else None  # type: ignore[arg-type]
    picture = Labelled(path, str(file), splits.get(path.stem) or found.split(path) or found.split(file), size)
    for i, row in enumerate(tree.findall("object"), 1):  # direct children: a part has a box too
        place = f"{file}, object {i}"
        corners = [row.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (number(value, "a corner of bndbox", place) for value in corners)
        except UserError as error:
            problems.append(str(error))
            continue
        edges = (x1 - 1, y1 - 1, x2, y2)  # the first pixel is 1, and the last belongs to the box
        is_crowd = (row.findtext("difficult") or "").strip() == "1"
        picture.objects.append(Object((row.findtext("name") or "").strip(), edges, place, is_crowd=is_crowd))
    return picture
