"""Texts and their classes, from tables and from folders of text files."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt

from lab.data import tiny_text
from lab.data.class_folders import read_class_folders
from lab.data.read_table import read_table, read_utf8
from lab.data.split import SPLITS, SYNONYMS, by_split, groups_of, split_of
from lab.data.text import Labelled, TextData
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.features.files import TABLES, visible


@dataclass
class NamedTexts:
    """Texts with the names of their classes. Each has a place, such as "FILE, line 7", and may have a group."""

    text: list[str]
    label: list[str]
    place: list[str]
    group: list[str] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def subset(self, indices: Sequence[int]) -> "NamedTexts":
        text, label, place = ([values[i] for i in indices] for values in (self.text, self.label, self.place))
        return NamedTexts(text, label, place, None if self.group is None else [self.group[i] for i in indices])


class TextTable(TextData):
    """Texts in a CSV, TSV, JSONL or Parquet file, or in a folder with the files train.*, val.* and test.*.

    A split without a file, or without rows of that `split`, is drawn from train.

    Args:
        root: the file or the folder.
        text: the column of the texts: its name; or its number, from 1, in a CSV or TSV file without a header.
        label: the column of the classes, likewise.
        split: the column with the splits train, val and test, if there is one.
        group: the column of the groups, if there is one. Rows of a group stay in one split when splits are drawn; a row
            with an empty cell is a group by itself.
        val_fraction: share of each class in the validation split, if it is drawn.
        test_fraction: share of each class in the test split, if it is drawn.
        skip_unreadable: leave out rows that can't be read; false: they are an error.
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
        skip_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.skip_unreadable = skip_unreadable
        self.root, self.columns = root, {"text": text, "label": label, "split": split, "group": group}
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        if self.tiny:
            table: dict[str, str | int | None] = {"text": "text", "label": "label", "split": None, "group": None}
            return _labelled({"train": self._read(tiny_text.csv_file(), table)[0]}, self)
        root = existing(self.root, "file")
        if root.is_dir():
            columns = self.columns | {"split": None}
            return _labelled({name: self._read(path, columns)[0] for name, path in self._files(root).items()}, self)
        rows, split = self._read(root, self.columns)
        return _labelled(_divided(rows, split) if split else {"train": rows}, self)

    def _read(self, path: Path, columns: dict[str, str | int | None]) -> tuple[NamedTexts, list[str]]:
        """The rows of a table, and the cells of its column `split`."""
        wanted = [column for column in columns.values() if column is not None]
        if len({type(column) for column in wanted}) > 1:
            raise UserError(f"data.text, data.label: give {', '.join(map(str, wanted))} all as names, or as numbers.")
        hint = " If its first line is no header, number the columns, such as data.text=1 data.label=2."
        group, label = columns["group"], columns["label"]
        cells, places, bad = read_table(path, wanted, [] if group is None else [group], [label or ""], hint)
        total = len(places) + len(bad)
        self.report.refuse("rows", bad, total, path.parent, self.skip_unreadable)
        header = "without a header" if isinstance(columns["text"], int) else "with a header"
        name = path.name if self.root and path.parent == Path(self.root).expanduser() else "a table"
        self.report.find(f"{total:,} rows in {name} {header}")
        of = {name: cells[column] for name, column in columns.items() if column is not None}
        given = of["label"]
        of["label"] = [unicodedata.normalize("NFC", cell.strip()) for cell in given]
        self._warn(path, columns, of, given)
        groups = groups_of(of["group"]) if "group" in of else None
        return NamedTexts(of["text"], of["label"], places, groups), of.get("split", [])

    def _warn(
        self, path: Path, columns: dict[str, str | int | None], of: dict[str, list[str]], given: list[str]
    ) -> None:
        """Warn of labels that may be a mistake."""
        stripped = [cell for cell in given if cell.strip() != cell]
        if stripped:
            self.report.warnings.append(
                f"{len(stripped):,} labels begin or end with spaces, which are removed, such as {stripped[0]!r}"
            )
        first, *rest = of["label"] or [""]
        if isinstance(columns["label"], int) and rest and first not in rest:
            self.report.warnings.append(
                f"the label {first!r} of the first line is on no other line; if the line is a header, name the columns:"
                f" data.text={of['text'][0][:40]} data.label={first}"
            )
        if path.suffix.lower() == ".tsv" and all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in of["label"]):
            self.report.warnings.append(
                "the labels begin and end with quotes, which a .tsv file keeps; save it as .csv to remove the quotes"
            )

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
        self.report.leave_out("other files and folders than the tables of the splits", others, is_minor=True)
        return found


class TextFolder(TextData):
    """Texts in a folder of .txt files for each class, in `root` or in `root/train`, `root/val` and `root/test`.

    Args:
        root: the folder. A missing val or test folder is drawn from train.
        val_fraction: share of each class in the validation split, if there is no val folder.
        test_fraction: share of each class in the test split, if there is no test folder.
        skip_unreadable: leave out files that can't be read; false: they are an error.
    """

    def __init__(
        self,
        root: str | None,
        val_fraction: Share,
        test_fraction: Share,
        skip_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.fractions = root, {"val": val_fraction, "test": test_fraction}
        self.skip_unreadable = skip_unreadable

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        root = tiny_text.folder() if self.tiny else existing(self.root, "folder")
        found, _ = read_class_folders(root, (".txt",), ".txt files", self.report)
        text: dict[str, str] = {}
        bad = []
        for path in (path for files in found.values() for path in files.paths):
            try:
                text[path] = read_utf8(Path(path))
            except UserError as error:
                bad.append(str(error).removeprefix("data: ").removesuffix("."))
        self.report.refuse(".txt files", bad, len(text) + len(bad), root, self.skip_unreadable)
        rows = {}
        for name, files in found.items():
            kept = [(path, label) for path, label in zip(files.paths, files.label, strict=True) if path in text]
            rows[name] = NamedTexts(
                [text[path] for path, _ in kept], [label for _, label in kept], [path for path, _ in kept]
            )
        return _labelled(rows, self)


def existing(root: str | None, kind: str) -> Path:
    if root is None:
        raise UserError(f"data.root: expected the {kind} of your texts; set data.root=PATH.")
    path = expanded(root)
    if not path.exists():
        raise UserError(f"data.root: {path} does not exist.")
    return path


def _divided(rows: NamedTexts, split: list[str]) -> dict[str, NamedTexts]:
    found = [split_of(cell) for cell in split]
    if None in found:
        wrong = found.index(None)
        names = ", ".join(synonym for synonyms in SYNONYMS.values() for synonym in synonyms)
        raise UserError(f"data: {rows.place[wrong]} has the split {split[wrong]!r}; expected one of {names}.")
    index = {name: [i for i, split in enumerate(found) if split == name] for name in SPLITS}
    return {name: rows.subset(indices) for name, indices in index.items() if indices or name == "train"}


def _labelled(rows: dict[str, NamedTexts], data: Any) -> tuple[dict[str, Labelled], list[str]]:
    """All three splits, the missing ones drawn from train; and the names of the classes in train."""
    if not len(rows["train"]):
        raise UserError("data: train has no samples.")
    class_names = sorted(set(rows["train"].label))
    number = {name: i for i, name in enumerate(class_names)}
    train = rows["train"]
    missing = {name: share for name, share in data.fractions.items() if name not in rows}
    label = torch.tensor([number[name] for name in train.label])
    parts = data.draw(label, missing, train.group, len(rows.get("test", ())))
    rows = rows | {name: train.subset(index) for name, index in parts.items()}
    known = set(rows["train"].label)
    for part in rows.values():
        for class_name, place in zip(part.label, part.place, strict=True):
            if class_name not in known:
                raise UserError(f"data: {place} has the class {class_name!r}, which no training sample has.")
    splits = {
        name: Labelled(part.text, torch.tensor([number[each] for each in part.label])) for name, part in rows.items()
    }
    return splits, class_names
