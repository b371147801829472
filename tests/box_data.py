"""The same pictures and boxes in each format of files."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(64, 48), (50, 80), (40, 40), (97, 31), (64, 64), (64, 64)]
NAMES = ("cat", "bird", "ant")  # not in alphabetical order, so that ids and indices differ


def made() -> list[tuple[str, tuple[int, int], list[tuple[str, tuple[int, int, int, int]]]]]:
    """The name, the size and the objects of each picture; the last has none."""
    random, every = np.random.default_rng(0), []
    for i in range(60):
        width, height = SIZES[i % len(SIZES)]
        objects = []
        for _ in range(i % 3 if i < 58 else 0):
            x, y = int(random.integers(0, width - 12)), int(random.integers(0, height - 12))
            objects.append((NAMES[int(random.integers(3))], (x, y, x + int(random.integers(4, 12)), y + 11)))
        every.append((f"{i:02d}.png", (width, height), objects))
    return every


def write(folder: Path, kind: str, pictures=None) -> Path:
    """Write the pictures and their boxes."""
    pictures = made() if pictures is None else pictures
    place = folder / "images" if kind == "yolo" else folder
    place.mkdir(parents=True, exist_ok=True)
    for i, (name, size, _) in enumerate(pictures):
        random = np.random.default_rng(i)
        Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), np.uint8)).save(place / name)
    WRITERS[kind](folder, pictures)
    return folder


def _coco(folder: Path, pictures) -> None:
    ids = {"cat": 90, "bird": 3, "ant": 17}
    images = [{"id": 7 * i, "file_name": n, "width": s[0], "height": s[1]} for i, (n, s, _) in enumerate(pictures)]
    rows = [
        {"id": 0, "image_id": 7 * i, "category_id": ids[kind], "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
        for i, (_, _, objects) in enumerate(pictures) for kind, b in objects
    ]  # fmt: skip
    kinds = [{"id": number, "name": name} for name, number in ids.items()]
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": kinds}))


def _voc(folder: Path, pictures) -> None:
    for name, (width, height), objects in pictures:
        rows = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{b[0] + 1}</xmin><ymin>{b[1] + 1}</ymin><xmax>{b[2]}</xmax>"
            f"<ymax>{b[3]}</ymax></bndbox></object>" for kind, b in objects
        )  # fmt: skip
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation><filename>{name}</filename>{size}{rows}</annotation>"
        (folder / name).with_suffix(".xml").write_text(text)


def _yolo(folder: Path, pictures) -> None:
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(f"names: {list(NAMES)}\n")
    for name, (width, height), objects in pictures:
        rows = [
            f"{NAMES.index(kind)} {(b[0] + b[2]) / 2 / width:.6f} {(b[1] + b[3]) / 2 / height:.6f}"
            f" {(b[2] - b[0]) / width:.6f} {(b[3] - b[1]) / height:.6f}\n" for kind, b in objects
        ]  # fmt: skip
        if rows:
            (folder / "labels" / name).with_suffix(".txt").write_text("".join(rows))


def _csv(folder: Path, pictures) -> None:
    with open(folder / "boxes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "class", "xmin", "ymin", "xmax", "ymax"])
        for name, _, objects in pictures:
            rows.writerows([name, kind, *box] for kind, box in objects)
            if not objects:
                rows.writerow([name, "", "", "", "", ""])


WRITERS = {"coco": _coco, "voc": _voc, "yolo": _yolo, "csv": _csv}
