"""Readers of boxes in YOLO's text files and in CSV tables."""

import csv
import re
from pathlib import Path

import yaml

from lab.data.box_records import Found, Labelled, Object, Problems, number
from lab.data.read_table import read_table, read_utf8
from lab.data.split import SPLITS
from lab.engine.errors import UserError

CSV_COLUMNS = {  # what a column means: its possible names
    "path": ("path", "image", "filename", "file", "image_path"),
    "class": ("class", "label", "name", "category"),
    "x1": ("x1", "xmin"), "y1": ("y1", "ymin"), "x2": ("x2", "xmax"), "y2": ("y2", "ymax"),
    "crowd": ("crowd", "iscrowd", "difficult"), "split": ("split", "subset"),
}  # fmt: skip
NEEDED = ("path", "class", "x1", "y1", "x2", "y2")


# YOLO


def is_yolo(path: Path) -> bool:
    """Whether each line of a text file has five numbers or more; an empty file in a folder `labels` has no boxes."""
    if path.suffix.lower() != ".txt":
        return False
    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return path.parent.name == "labels" if not rows else all(len(row) >= 5 and _is_number(row[0]) for row in rows)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+.\deE]+", text) is not None


def yolo_names(found: Found) -> list[str]:
    """The names of the classes in `data.yaml` (a list, or numbers with names), `classes.txt` or `obj.names`; or []."""
    for path in found.others:
        if path.name in ("classes.txt", "obj.names"):
            return [line.strip() for line in read_utf8(path).splitlines() if line.strip()]
        if path.suffix.lower() in (".yaml", ".yml"):
            try:
                content = yaml.safe_load(read_utf8(path))
            except yaml.YAMLError as error:
                raise UserError(f"data: {path} is not YAML ({' '.join(str(error).split())[:100]}).") from error
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict) and sorted(names) == list(range(len(names))):
                return [str(names[i]) for i in range(len(names))]
            if isinstance(names, list):
                return list(map(str, names))
    return []


def read_yolo(found: Found, files: list[Path]) -> tuple[list[Labelled], Problems]:
    names = yolo_names(found)
    if not names:
        raise UserError(f"data.root: {found.root} has YOLO boxes, but no names of classes; add data.yaml with names.")
    pictures: dict[Path, Labelled] = {}
    problems: Problems = []
    for file in (path for path in files if path.name != "classes.txt"):
        try:
            path = _of_yolo(found, file)
        except UserError as error:
            problems.append(str(error))
            continue
        if path in pictures:
            problems.append(f"{file}: {path} is described twice, first in {pictures[path].place}")
            continue
        pictures[path] = Labelled(path, str(file), found.split(path) or found.split(file))
        for row, line in enumerate(read_utf8(file).splitlines(), 1):
            try:
                pictures[path].objects += _yolo_object(line.split(), names, f"{file}, line {row}")
            except UserError as error:
                problems.append(str(error))
    for path in found.images:  # a picture without a text file has no objects
        pictures.setdefault(path, Labelled(path, str(path), found.split(path)))
    return list(pictures.values()), problems


def _of_yolo(found: Found, file: Path) -> Path:
    """The picture of `labels/a.txt` is `images/a.jpg`, or `a.jpg` next to it."""
    if file.parent.name == "labels" or "labels" in file.parts:
        parts = list(file.parts)
        parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
        same = [path for path in found.by_name.get(file.stem, ()) if path.with_suffix(".txt") == Path(*parts)]
        if len(same) == 1:
            return same[0]
    return found.image(file.stem, str(file), file)


def _yolo_object(cells: list[str], names: list[str], place: str) -> list[Object]:
    """A class number and the centre, width and height; or the corners of a polygon. All are shares."""
    if not cells:
        return []
    values = [number(cell, "a column", place) for cell in cells]
    kind, shares = values[0], values[1:]
    if not (kind.is_integer() and 0 <= kind < len(names)):
        raise UserError(f"{place}: the class is {cells[0]}; the names have 0 to {len(names) - 1}")
    if len(shares) == 4:
        x, y, width, height = shares
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        edges = (min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2]))
    else:
        raise UserError(f"{place}: there are {len(cells)} columns; expected a class and x, y, width, height")
    if max(map(abs, shares)) > 2:
        raise UserError(f"{place}: {max(shares, key=abs):g} is no share of the picture; expected 0 to 1, not pixels")
    return [Object(names[int(kind)], edges, place, is_share=True)]


# CSV


def is_csv(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") and set(NEEDED) <= _csv_columns(path).keys()


def _csv_columns(path: Path) -> dict[str, str]:
    """The heading of each column that is known, by its name in `CSV_COLUMNS`."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), [])
    found = {name.strip().lower(): name for name in header}
    return {meaning: found[name] for meaning, names in CSV_COLUMNS.items() for name in names[::-1] if name in found}


def read_csv(found: Found, files: list[Path]) -> tuple[list[Labelled], Problems]:
    pictures: dict[Path, Labelled] = {}
    problems: Problems = []
    for file in files:
        columns = _csv_columns(file)
        cells, places, bad = read_table(file, list(columns.values()))
        problems += bad
        for place, *row in zip(places, *(cells[heading] for heading in columns.values()), strict=True):
            try:
                _add_csv_row(found, file, dict(zip(columns, row, strict=True)), place, pictures)
            except UserError as error:
                problems.append(str(error))
    return list(pictures.values()), problems


def _add_csv_row(found: Found, file: Path, row: dict[str, str], place: str, pictures: dict[Path, Labelled]) -> None:
    """A row is a box, or a picture without boxes if the class and the edges are empty."""
    path = found.image(row["path"].strip(), place, file)
    stated = row.get("split", "").strip().lower()
    if stated and stated not in SPLITS:
        raise UserError(f"{place}: the split is {stated}; expected train, val or test")
    picture = Labelled(path, place, stated or found.split(path) or found.split(file))
    other = pictures.setdefault(path, picture)
    if other.split != picture.split:
        raise UserError(f"{place}: {path} is in {other.split} and in {picture.split}")
    if not any(row[name].strip() for name in NEEDED[1:]):
        return
    x1, y1, x2, y2 = (number(row[name], name, place) for name in NEEDED[2:])
    is_crowd = row.get("crowd", "").strip().lower() in ("1", "true", "yes")
    other.objects.append(Object(row["class"].strip(), (x1, y1, x2, y2), place, is_crowd=is_crowd))
