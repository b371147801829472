"""Boxes in the files of COCO (JSON), Pascal VOC (XML), YOLO (txt) or a CSV table, all read as the same objects."""

from collections.abc import Callable, Iterator
from pathlib import Path

from lab.data.box_documents import is_coco, is_voc, read_coco, read_voc
from lab.data.box_records import Found, Labelled, Problems
from lab.data.box_rows import NEEDED, is_csv, is_yolo, read_csv, read_yolo, yolo_names
from lab.engine.errors import UserError

Reader = Callable[[Found, list[Path]], tuple[list[Labelled], Problems]]
FORMATS: dict[str, tuple[Callable[[Path], bool], Reader]] = {  # name -> whether a file has it, and its reader
    "COCO": (is_coco, read_coco),
    "Pascal VOC": (is_voc, read_voc),
    "YOLO": (is_yolo, read_yolo),
    "CSV": (is_csv, read_csv),
}


def read_boxes(root: Path) -> tuple[list[Labelled], Problems, str]:
    """Read all pictures and their objects.

    Returns:
        The pictures, sorted by path; a line for each problem, with its place; and the name of the format.

    Raises:
        UserError: there are no boxes in a known format, or boxes in several formats.
    """
    if not root.exists():
        raise UserError(f"data.root: {root}: there is no such file or folder.")
    found = Found(root)
    claimed = {name: files for name, (claims, _) in FORMATS.items() if (files := [*filter(claims, found.others)])}
    if "YOLO" in claimed and len(claimed) > 1 and not yolo_names(found):
        del claimed["YOLO"]  # a text file next to other annotations, such as a list of files
    if len(claimed) != 1:
        several = " and ".join(f"{name} ({files[0]})" for name, files in claimed.items())
        raise UserError(
            f"data.root: {root} has boxes in several formats: {several}. Keep one of them."
            if claimed
            else f"data.root: {root} has no boxes; expected COCO JSON, Pascal VOC XML, YOLO txt, or a CSV"
            f" with the columns {', '.join(NEEDED)}."
        )
    ((name, files),) = claimed.items()
    pictures, problems = FORMATS[name][1](found, sorted(files))
    known = {picture.path for picture in pictures}
    if len(known) != len(pictures):
        pictures = list(_merged(pictures, problems))
    return sorted(pictures, key=lambda picture: str(picture.path)), problems, name


def _merged(pictures: list[Labelled], problems: Problems) -> Iterator[Labelled]:
    """Yield each picture once. A picture in two splits, or with two files, is a problem."""
    first: dict[Path, Labelled] = {}
    for picture in pictures:
        other = first.setdefault(picture.path, picture)
        if other is picture:
            yield picture
        elif other.split != picture.split:
            problems.append(f"{picture.place}: {picture.path} is in {other.split} and in {picture.split}")
        else:
            problems.append(f"{picture.place}: {picture.path} is described twice, first in {other.place}")
