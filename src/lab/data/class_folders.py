"""Images or texts in a folder for each class, in one folder or in the folders train, val and test."""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.data.data_report import DataReport
from lab.data.split import by_split, split_of, split_words
from lab.engine.errors import UserError
from lab.features.files import files_below, is_hidden, visible

NAMED = 8  # folders in an error


@dataclass
class ClassFiles:
    """The files of a split, all below `folder`, and the class name of each file."""

    folder: Path
    paths: list[str] = field(default_factory=list)
    label: list[str] = field(default_factory=list)


def read_class_folders(
    root: Path, suffixes: Collection[str], kind: str, report: DataReport
) -> tuple[dict[str, ClassFiles], list[str]]:
    """The files of each split, and the names of the classes in train, in the composed form of Unicode (NFC).

    Args:
        root: a folder with a folder for each class; or with the folders train, and optionally val and test, that have a
            folder for each class.
        suffixes: of the files to read, in lower case.
        kind: a word for these files, such as "images".
        report: gets the files that are found and left out.

    Raises:
        UserError: the folders are different, a class has no file in train, or val or test has a class that train lacks.
    """
    if not root.is_dir():
        raise UserError(
            f"data.root: {root} is not a folder. Expected one that holds a folder of {kind} for each class."
        )
    folders = split_folders(root)
    classes = {split: _classes(folder, kind) for split, folder in folders.items()}
    _refuse_nested(classes["train"], root)
    others: list[Path] = []
    hidden = [path for folder in {root, *folders.values()} for path in folder.iterdir() if is_hidden(path.name)]
    found = {}
    for split, of in classes.items():
        if extra := sorted(set(of) - set(classes["train"])):
            raise UserError(f"data.root: {folders[split]} has classes that train lacks: {', '.join(extra)}.")
        found[split] = ClassFiles(folders[split])
        for name, places in of.items():
            files = [path for place in places for path in files_below(place, hidden)]
            read = [str(path) for path in files if path.suffix.lower() in suffixes]
            if not read and (files or split == "train"):
                raise UserError(_without_files(places[0], files, kind))
            others += [path for path in files if path.suffix.lower() not in suffixes]
            found[split].paths += read
            found[split].label += [name] * len(read)
    outside = [path for folder in {root, *folders.values()} for path in visible(folder) if not path.is_dir()]
    number = sum(len(files.paths) for files in found.values())
    report.find(f"{number:,} {kind} in {_described(folders, root)}")
    for what, paths, is_minor in (
        (f"files in the class folders without a suffix of {kind}", others, False),
        ("files outside of the class folders", outside, True),
        ("hidden files and folders", hidden, True),
    ):
        report.leave_out(what, [relative(path, root) for path in sorted(paths)], is_minor=is_minor)
    return found, list(classes["train"])


def split_folders(root: Path) -> dict[str, Path]:
    """The existing folders among train, val and test; without any, `root` is train.

    Raises:
        UserError: val or test exist without train, or next to other folders.
    """
    paths = [path for path in visible(root) if path.is_dir()]
    folders = by_split(paths, [path.name for path in paths], root)
    others = [path.name for path in paths if path not in folders.values()]
    looks = {split for path in paths for split in split_words(path.name)}
    if (folders and ("train" not in folders or others)) or (not folders and "train" in looks and len(looks) > 1):
        raise UserError(
            f"data.root: {root} has {_named(paths)}; expected train, optionally val and test, and no other folder;"
            " or a folder for each class. Rename the folders of the splits. If the folders are classes, move them"
            " into a folder train."
        )
    return folders or {"train": root}


def relative(path: str | Path, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _classes(folder: Path, kind: str) -> dict[str, list[Path]]:
    """The folders of each class. Two Unicode spellings of a name are one class."""
    found: dict[str, list[Path]] = {}
    entries = visible(folder)
    for path in entries:
        if path.is_dir():
            found.setdefault(unicodedata.normalize("NFC", path.name), []).append(path)
    if not found:
        raise UserError(
            f"data.root: {folder} has no folders, but {len(entries)} files. It holds a folder of {kind} for each class."
            + ("" if split_of(folder.name) in (None, "train") else " Samples without a class are for lab predict.")
            if entries
            else f"data.root: {folder} is empty. It holds a folder of {kind} for each class."
        )
    return found


def _refuse_nested(classes: dict[str, list[Path]], root: Path) -> None:
    """Raise UserError if the splits are inside of the classes, or the data is one folder deeper."""
    for places in classes.values():
        inner = [path for path in visible(places[0]) if path.is_dir()]
        splits = [path for path in inner if split_of(path.name)]
        if len(classes) == 1 and inner:
            raise UserError(
                f"data.root: {root} has one folder, with the folders {_named(inner)}. Is it data.root={places[0]}?"
            )
        if splits:
            raise UserError(
                f"data.root: {places[0]} holds {_named(splits)}; expected the splits first, such as"
                f" {splits[0].name}/{places[0].name}."
            )


def _without_files(folder: Path, files: Sequence[Path], kind: str) -> str:
    if not files:
        return f"data.root: {folder} has no {kind}. Add some, or remove the folder."
    suffixes = ", ".join(sorted({path.suffix or path.name for path in files})[:5])
    return (
        f"data.root: {folder} has {len(files)} files, but no {kind} ({suffixes}). Convert them, or remove the folder."
    )


def _described(folders: dict[str, Path], root: Path) -> str:
    if folders == {"train": root}:
        return "a folder for each class"
    names = (path.name if path.name == name else f"{path.name} ({name})" for name, path in folders.items())
    return f"the folders {', '.join(names)}"


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(path.name for path in paths[:NAMED]) + more
