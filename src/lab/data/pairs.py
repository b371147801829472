"""Texts and their translations, from files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from lab.data import tiny_text
from lab.data.read_table import read_table, read_utf8
from lab.data.split import SPLITS, split_of
from lab.data.text_files import existing
from lab.data.translation import Pair, TranslationData
from lab.engine.errors import UserError
from lab.features.files import TABLES, visible


class Pairs(TranslationData):
    """Pairs of texts in a file, or in a folder with the files train*, val* and test*. Missing splits are drawn.

    A file is one of these:
        * a table with a header: `.csv`, `.tsv`, `.jsonl` or `.parquet`. `source` and `target` are names of columns.
        * a table without a header: `.txt`, with tabs between its columns, such as the pairs of Tatoeba. `source` and
          `target` are numbers of columns.
        * one of two files with aligned lines, such as `train.en` and `train.de` of Multi30k. `source` and `target` are
          the suffixes.

    Args:
        root: the file or the folder.
        source: the source texts: a column such as "en", a number such as 1, or a suffix such as "en" for `.en`.
        target: the target texts, likewise.
        max_characters: leave out pairs of the training file with a longer text, before splits are drawn from it. Pairs
            of val and test files are always kept.
        skip_unreadable: leave out rows that can't be read; false: they are an error.
    """

    def __init__(
        self,
        root: str | None,
        source: str | PositiveInt,
        target: str | PositiveInt,
        max_characters: PositiveInt | None = None,
        skip_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.skip_unreadable = skip_unreadable
        self.root, self.source, self.target, self.max_characters = root, source, target, max_characters

    def read_pairs(self) -> dict[str, Sequence[Pair]]:
        if self.tiny:
            return {"train": _columns(tiny_text.pairs(), 1, 2)[0]}
        root = existing(self.root, "file or folder")
        files = self._splits(root) if root.is_dir() else {"train": root}
        pairs = {name: self._read(path) for name, path in files.items()}
        for name, path in files.items():
            self.report.find(f"{len(pairs[name]):,} pairs" + (f" in {path.name} ({name})" if root.is_dir() else ""))
        return pairs | {"train": self._short(pairs["train"])}

    def _splits(self, root: Path) -> dict[str, Path]:
        endings = (*TABLES, ".txt", f".{self.source}".lower())
        found: dict[str, list[Path]] = {name: [] for name in SPLITS}
        others: list[Path] = []
        for path in visible(root):
            begins = re.match("[A-Za-z]*", path.name)
            split = split_of(begins[0]) if begins and path.suffix.lower() in endings and not path.is_dir() else None
            (found[split] if split else others).append(path)
        unused = [path.name for path in others if path.suffix.lower() != f".{self.target}".lower()]
        self.report.leave_out("other files and folders than those of the splits", unused, is_minor=True)
        for name, paths in found.items():
            if len(paths) > 1 or (name == "train" and not paths):
                names = ", ".join(path.name for path in paths) or f"no {name}*"
                raise UserError(
                    f"data.root: {root} has {names}; expected one file, of {', '.join(endings)}.{_languages(root)}"
                )
        return {name: paths[0] for name, paths in found.items() if paths}

    def _read(self, path: Path) -> Sequence[Pair]:
        if path.suffix.lower() == f".{self.source}".lower():
            return _aligned(path, path.with_suffix(f".{self.target}"))
        if path.suffix.lower() == ".txt":
            rows, bad = _columns(path, self.source, self.target)
            self.report.refuse("lines", bad, len(rows) + len(bad), path.parent, self.skip_unreadable)
            return rows
        names = str(self.source), str(self.target)
        hint = " A table without a header ends in .txt, with tabs between its columns."
        cells, places, bad = read_table(path, names, hint=hint)
        self.report.refuse("rows", bad, len(places) + len(bad), path.parent, self.skip_unreadable)
        return list(zip(cells[names[0]], cells[names[1]], strict=True))

    def _short(self, pairs: Sequence[Pair]) -> Sequence[Pair]:
        if self.max_characters is None:
            return pairs
        kept = [pair for pair in pairs if max(map(len, pair)) <= self.max_characters]
        self.report.leave_out(
            f"of {len(pairs):,} pairs: longer than {self.max_characters} characters"
            " (data.max_characters=null keeps them)",
            [pair[0] for pair in pairs if max(map(len, pair)) > self.max_characters],
        )
        return kept


def _languages(root: Path) -> str:
    """Return a hint if the training pairs are in two files, such as train.en and train.fr."""
    paths = [path for path in visible(root) if split_of(path.stem) == "train" and path.suffix]
    if len(paths) != 2 or paths[0].stem != paths[1].stem:
        return ""
    one, other = (path.suffix[1:] for path in paths)
    return f" For {paths[0].name} and {paths[1].name}, give data.source={one} data.target={other}, or the reverse."


def _columns(path: Path, source: str | int, target: str | int) -> tuple[list[Pair], list[str]]:
    """The pairs of a file, and an error for each other line."""
    if isinstance(source, str) or isinstance(target, str):
        raise UserError(f"data.source, data.target: {path} has no header; number its columns, the first is 1.")
    pairs, bad = [], []
    for number, line in enumerate(_lines(path), 1):
        cells = line.split("\t")
        if len(cells) >= max(source, target):
            pairs.append((cells[source - 1], cells[target - 1]))
        elif line:
            bad.append(f"{path}, line {number} has {len(cells)} columns, but not {source} and {target}")
    return pairs, bad


def _aligned(source: Path, target: Path) -> list[Pair]:
    sides = _lines(source), _lines(target)
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"data: {source} has {len(sides[0])} lines, {target} {len(sides[1])}; expected as many lines in both."
        )
    return list(zip(*sides, strict=True))


def _lines(path: Path) -> list[str]:
    """The lines of a file. Only newlines separate them, unlike in `str.splitlines`."""
    return [line.rstrip("\r") for line in read_utf8(path).removesuffix("\n").split("\n")]
