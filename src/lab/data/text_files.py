"""One's own texts and their classes: from tables, and from folders of text files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab.data import tiny_text
from lab.data.split import split_folders
from lab.data.table import SUFFIXES, read_table, read_text
from lab.data.text import Labelled, TextData
from lab.errors import UserError
from lab.folder import expanded
from lab.types import Share

SPLITS = ("train", "val", "test")


@dataclass
class Rows:
    """Texts with the names of their classes; each has a place to name it by, and may have a group."""

    text: list[str]
    label: list[str]
    place: list[str]
    group: list[str] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def subset(self, indices: Sequence[int]) -> "Rows":
        text, label, place = ([values[i] for i in indices] for values in (self.text, self.label, self.place))
        return Rows(text, label, place, None if self.group is None else [self.group[i] for i in indices])


class TextTable(TextData):
    """One's own texts in a CSV, TSV, JSONL or Parquet file, or in a folder of such files: train.*, val.*, test.*.

    What there is no file for, or no row of that `split`, is drawn from train.

    Args:
        root: the file or the folder.
        text: the column of the texts.
        label: the column of the classes.
        split: the column, if there is one, that says train, val or test.
        group: the column, if there is one, whose equals stay in one split when splits are drawn.
        val_fraction: share of each class that validates, where no rows are said to.
        test_fraction: share of each class that tests, where no rows are said to.
    """

    def __init__(
        self,
        root: str | None,
        text: str,
        label: str,
        val_fraction: Share,
        test_fraction: Share,
        split: str | None = None,
        group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.columns = root, {"text": text, "label": label, "split": split, "group": group}
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        if self.tiny:
            return _labelled({"train": _read(tiny_text.table(), {"text": "text", "label": "label"})[0]}, self)
        root = existing(self.root, "file")
        if root.is_dir():
            columns = self.columns | {"split": None}
            return _labelled({name: _read(path, columns)[0] for name, path in _files(root).items()}, self)
        rows, split = _read(root, self.columns)
        return _labelled(_divided(rows, split) if split else {"train": rows}, self)


class TextFolder(TextData):
    """One's own texts: a folder of .txt files for each class, in `root` or in `root/train`, `root/val`, `root/test`.

    Args:
        root: the folder; a val or test folder that is missing is split off train.
        val_fraction: share of each class that validates, where there is no val folder.
        test_fraction: share of each class that tests, where there is no test folder.
    """

    def __init__(self, root: str | None, val_fraction: Share, test_fraction: Share, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.fractions = root, {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        root = tiny_text.folder() if self.tiny else existing(self.root, "folder")
        if not root.is_dir():
            raise UserError(f"data.root: {root} is not a folder. It holds a folder of .txt files for each class.")
        return _labelled({name: _read_folder(path) for name, path in split_folders(root).items()}, self)


def existing(root: str | None, kind: str) -> Path:
    if root is None:
        raise UserError(f"data.root: say which {kind} holds your texts, with data.root=PATH.")
    path = expanded(root)
    if not path.exists():
        raise UserError(f"data.root: {path} is not there.")
    return path


def _read(path: Path, columns: dict[str, str | None]) -> tuple[Rows, list[str]]:
    """The rows of a table, and what its column `split` says of each."""
    cells, places = read_table(path, [column for column in columns.values() if column is not None])
    of = {name: cells[column] for name, column in columns.items() if column is not None}
    if "" in of["label"]:
        raise UserError(f"data: {places[of['label'].index('')]} has no {columns['label']}.")
    return Rows(of["text"], of["label"], places, of.get("group")), of.get("split", [])


def _files(root: Path) -> dict[str, Path]:
    """The tables of a folder that are splits."""
    paths = [path for path in sorted(root.iterdir()) if path.suffix.lower() in SUFFIXES and path.stem in SPLITS]
    found = {path.stem: path for path in paths}
    if "train" not in found or len(found) < len(paths):
        names = ", ".join(path.name for path in paths) or "no such file"
        raise UserError(
            f"data.root: {root} has {names}; expected one train.*, of {', '.join(SUFFIXES)}; val.*, test.*."
        )
    return found


def _divided(rows: Rows, split: list[str]) -> dict[str, Rows]:
    for name, place in zip(split, rows.place, strict=True):
        if name not in SPLITS:
            raise UserError(f"data: {place} is of the split {name!r}; there are: {', '.join(SPLITS)}.")
    index = {name: [i for i, own in enumerate(split) if own == name] for name in SPLITS}
    return {name: rows.subset(found) for name, found in index.items() if found or name == "train"}


def _read_folder(root: Path) -> Rows:
    paths = [path for path in sorted(root.glob("*/**/*.txt")) if path.is_file()]
    if not paths:
        raise UserError(f"data.root: {root} has no .txt files. It holds a folder of them for each class.")
    return Rows([*map(read_text, paths)], [path.relative_to(root).parts[0] for path in paths], [*map(str, paths)])


def _labelled(rows: dict[str, Rows], data: Any) -> tuple[dict[str, Labelled], list[str]]:
    """All three splits, those that are missing drawn from train, and the names of the classes: train's."""
    class_names = sorted(set(rows["train"].label))
    number = {name: i for i, name in enumerate(class_names)}
    train = rows["train"]
    missing = {name: share for name, share in data.fractions.items() if name not in rows}
    parts = data.draw(torch.tensor([number[name] for name in train.label]), missing, train.group)
    rows = rows | {name: train.subset(index) for name, index in parts.items()}
    known = set(rows["train"].label)
    for part in rows.values():
        for label, place in zip(part.label, part.place, strict=True):
            if label not in known:
                raise UserError(f"data: {place} has the class {label!r}, which no training sample has.")
    splits = {
        name: Labelled(part.text, torch.tensor([number[label] for label in part.label])) for name, part in rows.items()
    }
    return splits, class_names
