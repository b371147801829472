"""Your own texts and their classes: from tables, and from folders of text files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt

from lab.data import tiny_text
from lab.data.files import TABLES, files_below, visible
from lab.data.split import (
    SPLITS,
    SYNONYMS,
    by_split,
    class_folders,
    described,
    groups_of,
    split_folders,
    split_of,
    strays,
)
from lab.data.table import read_table, read_text
from lab.data.text import Labelled, TextData
from lab.errors import UserError
from lab.folder import expanded
from lab.types import Share


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
    """Your own texts in a CSV, TSV, JSONL or Parquet file, or in a folder of such files: train.*, val.*, test.*.

    What there is no file for, or no row of that `split`, is drawn from train.

    Args:
        root: the file or the folder.
        text: the column of the texts; its number, from 1, in a CSV or TSV file without a header.
        label: the column of the classes; its number.
        split: the column, if there is one, that says train, val or test.
        group: the column, if there is one, whose equals stay in one split when splits are drawn; an empty cell is a
            group of its own.
        val_fraction: share of each class that validates, where no rows are said to.
        test_fraction: share of each class that tests, where no rows are said to.
    """

    def __init__(
        self,
        root: str | None,
        text: str | PositiveInt,
        label: str | PositiveInt,
        val_fraction: Share,
        test_fraction: Share,
        split: str | PositiveInt | None = None,
        group: str | PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.columns = root, {"text": text, "label": label, "split": split, "group": group}
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        if self.tiny:
            table: dict[str, str | int | None] = {"text": "text", "label": "label", "split": None, "group": None}
            return _labelled({"train": self._read(tiny_text.table(), table)[0]}, self)
        root = existing(self.root, "file")
        if root.is_dir():
            columns = self.columns | {"split": None}
            return _labelled({name: self._read(path, columns)[0] for name, path in self._files(root).items()}, self)
        rows, split = self._read(root, self.columns)
        return _labelled(_divided(rows, split) if split else {"train": rows}, self)

    def _read(self, path: Path, columns: dict[str, str | int | None]) -> tuple[Rows, list[str]]:
        """The rows of a table, and what its column `split` says of each."""
        wanted = [column for column in columns.values() if column is not None]
        if len({type(column) for column in wanted}) > 1:
            raise UserError(f"data.text, data.label: give {', '.join(map(str, wanted))} all as names, or as numbers.")
        hint = " If its first line is no header, number the columns, such as data.text=1 data.label=2."
        cells, places = read_table(path, wanted, [columns["group"]] if columns["group"] is not None else [], hint)
        of = {name: cells[column] for name, column in columns.items() if column is not None}
        label = [cell.strip() for cell in of["label"]]
        if "" in label:
            raise UserError(f"data: {places[label.index('')]} has no {columns['label']}.")
        header = "without a header" if isinstance(columns["text"], int) else "with a header"
        name = path.name if self.root and path.parent == Path(self.root).expanduser() else "a table"
        self.report.find(f"{len(places):,} rows in {name} {header}")
        stripped = [cell for cell, own in zip(of["label"], label, strict=True) if cell != own]
        self.report.leave_out(
            "labels' spaces before and after the text", sorted(set(map(repr, stripped))), len(stripped)
        )
        return Rows(of["text"], label, places, groups_of(of["group"]) if "group" in of else None), of.get("split", [])

    def _files(self, root: Path) -> dict[str, Path]:
        """The tables of a folder that are splits."""
        paths = [path for path in visible(root) if path.suffix.lower() in TABLES and not path.is_dir()]
        found = by_split(paths, [path.stem for path in paths], root)
        if "train" not in found:
            names = ", ".join(path.name for path in paths) or "no such file"
            raise UserError(
                f"data.root: {root} has {names}; expected one train.*, of {', '.join(TABLES)}; val.*, test.*."
            )
        others = [path.name for path in sorted(root.iterdir()) if path not in found.values()]
        self.report.leave_out("other files and folders beside the tables of the splits", others, is_minor=True)
        return found


class TextFolder(TextData):
    """Your own texts: a folder of .txt files for each class, in `root` or in `root/train`, `root/val`, `root/test`.

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
        folders = split_folders(root)
        rows = {name: self._read(path, root) for name, path in folders.items()}
        self.report.find(f"{sum(map(len, rows.values())):,} text files in {described(folders, root)}")
        for what, found in strays(folders, root).items():
            self.report.leave_out(what, [path.relative_to(root) for path in found], is_minor=True)
        return _labelled(rows, self)

    def _read(self, folder: Path, root: Path) -> Rows:
        paths: list[Path] = []
        label: list[str] = []
        others: list[Path] = []
        for name in class_folders(folder):
            files = list(files_below(folder / name))
            texts = [path for path in files if path.suffix.lower() == ".txt"]
            if not texts:
                kinds = ", ".join(sorted({path.suffix or path.name for path in files})[:5]) or "it is empty"
                raise UserError(
                    f"data.root: {folder / name} has no .txt files ({kinds}). Add some, or remove the folder."
                )
            paths, label = paths + texts, label + [name] * len(texts)
            others += [path for path in files if path.suffix.lower() != ".txt"]
        if not paths:
            raise UserError(f"data.root: {folder} has no .txt files. It holds a folder of them for each class.")
        self.report.leave_out("files that do not end in .txt", [path.relative_to(root) for path in others])
        return Rows([*map(read_text, paths)], label, [*map(str, paths)])


def existing(root: str | None, kind: str) -> Path:
    if root is None:
        raise UserError(f"data.root: say which {kind} holds your texts, with data.root=PATH.")
    path = expanded(root)
    if not path.exists():
        raise UserError(f"data.root: {path} is not there.")
    return path


def _divided(rows: Rows, split: list[str]) -> dict[str, Rows]:
    found = [split_of(cell) for cell in split]
    if None in found:
        wrong = found.index(None)
        names = ", ".join(synonym for synonyms in SYNONYMS.values() for synonym in synonyms)
        raise UserError(f"data: {rows.place[wrong]} is of the split {split[wrong]!r}; there are: {names}.")
    index = {name: [i for i, own in enumerate(found) if own == name] for name in SPLITS}
    return {name: rows.subset(own) for name, own in index.items() if own or name == "train"}


def _labelled(rows: dict[str, Rows], data: Any) -> tuple[dict[str, Labelled], list[str]]:
    """All three splits, those that are missing drawn from train, and the names of the classes: train's."""
    if not len(rows["train"]):
        raise UserError("data: train has no samples.")
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
