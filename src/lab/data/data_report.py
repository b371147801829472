"""The report of the data: samples that are found, used and left out. The screen shows a few lines, the folder all."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from lab.engine.display import printable
from lab.engine.errors import UserError
from lab.engine.folder import DATA_REPORT

NUM_CLASSES, NUM_LINES, LONGEST = 5, 3, 160  # of the short report: classes, lines of a kind, characters of a line
MOST_NAMED = 20  # bad samples in an error
WIDTH = 12
ALL = f"lab data, or {DATA_REPORT} in the run's folder"
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
LETTER = re.compile(r"[^\W\d_]")


@dataclass
class LeftOut:
    """Files, rows or parts of texts that are not used, for one reason."""

    what: str  # such as "images that can't be read"
    count: int
    names: list[str]  # may have fewer than `count`
    is_minor: bool = False  # the files are no samples


@dataclass
class DataReport:
    """The report of the data, filled while it is read. Names are relative to the root, which may be a secret."""

    found: list[str] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)  # of each split
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # of each split: samples of each class
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def find(self, what: str) -> None:
        self.found.append(what)

    def leave_out(self, what: str, names: Iterable[object], count: int | None = None, is_minor: bool = False) -> None:
        """Add samples that are not used: their names, or their `count` if they have no names."""
        named = [printable(name) for name in names]
        number = len(named) if count is None else count
        if number:
            self.left_out.append(LeftOut(what, number, named, is_minor))

    def refuse(self, kind: str, problems: Sequence[str], total: int, root: Path, may_skip: bool) -> None:
        """Leave out samples that can't be read, or refuse the data.

        Args:
            kind: the word for samples, such as "images".
            problems: an error for each bad sample, such as "x/a.png is not a readable image (it is empty)".
            total: number of all samples, good or bad.
            root: the root of the data.
            may_skip: leave out bad samples; false: they are an error.

        Raises:
            UserError: there are bad samples, and they may not be left out; or all samples are bad.
        """
        if may_skip and len(problems) < total:
            self.leave_out(f"{kind} that can't be read", [problem.replace(f"{root}/", "", 1) for problem in problems])
        elif len(problems) == 1:
            raise UserError(f"data: {problems[0]}. Repair or delete it; data.skip_unreadable=true leaves it out.")
        elif problems:
            hint = "" if may_skip else " data.skip_unreadable=true leaves them out."
            more = f"  … and {len(problems) - MOST_NAMED} more, which lab data data.skip_unreadable=true names"
            raise UserError(
                f"data: {len(problems)} of {total} {kind} can't be read. Repair or delete them.{hint}",
                *[f"  {problem}" for problem in problems[:MOST_NAMED]],
                *([more] if len(problems) > MOST_NAMED else []),
            )

    def describe_draw(
        self, parts: Collection[str], folds: tuple[int, int] | None, has_groups: bool, num_test: int
    ) -> None:
        """Note how the splits were drawn: see `lab.data.base.Data.draw`."""
        if folds is not None:
            self.find(f"fold {folds[1]} of {folds[0]} is the test split; the others train and validate")
            self.leave_out("samples of the official test split, which cross-validation does not use", (), num_test)
        elif parts:
            whole = ", groups whole" if has_groups else ""
            self.find(f"no {' and '.join(parts)} split: drawn from train{whole}")

    def describe(self, contents: dict[str, list[bytes]], names: Mapping[str, Sequence[str]]) -> None:
        """Count the samples, and warn of samples in two splits.

        Args:
            contents: a digest of each sample, for each split; equal samples have equal digests.
            names: the names of the samples, for the splits that have names.
        """
        order = sorted(contents, key=("train", "val", "test").index)
        self.samples = {split: len(contents[split]) for split in order}
        for first, second in combinations(order, 2):
            known = set(contents[first])
            both = [i for i, content in enumerate(contents[second]) if content in known]
            if both:
                example = names[second][both[0]] if second in names else both[0]
                self.warnings.append(
                    f"{len(both):,} of {len(contents[second]):,} {second} samples are in {first} too, such as"
                    f" {_short(example)}"
                )

    def count_classes(self, labels: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> None:
        """Count the samples of each class in each split, and warn of classes without samples."""
        counts = {split: Counter(label) for split, label in labels.items()}
        self.classes = {
            split: {name: of[i] for i, name in enumerate(class_names)} for split, of in sorted(counts.items())
        }
        for split in ("train", "val", "test"):
            lacking = [name for name, count in self.classes.get(split, {}).items() if not count]
            if lacking:
                score = f", and gives no score for {'them' if len(lacking) > 1 else 'it'}" if split == "test" else ""
                self.warnings.append(f"{split} has no sample of {', '.join(lacking)}{score}")
        self._warn_of_names(class_names)

    def _warn_of_names(self, class_names: Sequence[str]) -> None:
        alike: dict[str, list[str]] = {}
        for name in class_names:
            letters = unicodedata.normalize("NFKC", name).casefold()
            seen = "".join(c for c in letters if unicodedata.category(c) != "Cf" and not c.isspace())
            alike.setdefault(seen, []).append(name)
        for names in alike.values():
            if len(names) > 1:
                self.warnings.append(f"{' and '.join(map(ascii, names))} are different classes with almost equal names")

    def cut(self, number: int, max_length: int) -> None:
        """Add the number of texts that were truncated to `max_length` tokens."""
        self.leave_out(f"texts truncated to {max_length} tokens (data.max_length)", (), number)

    def warn_of_empty(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Warn of texts without a visible character."""
        for split, of in texts.items():
            if number := sum(not text.strip() for text in of):
                self.warnings.append(f"{number:,} of {len(of):,} {split} texts are empty")

    def warn_of_words(self, texts: Sequence[str], tokens: str | None) -> None:
        """Warn if many texts have no spaces between words, and `tokens` are words."""
        some = texts[:: -(-len(texts) // 1000)]
        number = sum(2 * len(WITHOUT_SPACES.findall(text)) > len(LETTER.findall(text)) for text in some)
        if tokens == "words" and number > 0.1 * len(some):
            self.warnings.append(
                f"{number} of {len(some)} texts are in a script without spaces, in which data.tokens=words"
                " finds few words; use data.tokens=characters"
            )

    def short(self) -> str:
        """The report for the screen, at most a dozen lines."""
        losses = [_counted(each) for each in sorted(self.left_out, key=lambda each: each.is_minor)]
        lines = [*_first("found", self.found), *(self._split(split, NUM_CLASSES) for split in self.samples)]
        lines += [*_first("warning", self.warnings), *_first("left out", losses)]
        return "\n".join(_short(line, LONGEST) for line in lines)

    def full(self) -> str:
        """The full report, for the folder of the run."""
        lines = [_line("found", item) for item in self.found]
        lines += [self._split(split, None) for split in self.samples]
        lines += [_line("warning", item) for item in self.warnings]
        for each in self.left_out:
            lines.append(_line("left out", _counted(each)))
            lines += [_line("", f"  {_short(name, 200)}") for name in each.names]
        return "\n".join(map(printable, lines)) + "\n"

    def _split(self, split: str, most: int | None) -> str:
        line = _line(split, f"{self.samples[split]:,} samples")
        classes = [(name, count) for name, count in self.classes.get(split, {}).items() if count]
        if not classes:
            return line
        some = ", ".join(f"{_short(name) if most else name} {count:,}" for name, count in classes[:most])
        more = f" and {len(classes) - most} classes more" if most and len(classes) > most else ""
        return f"{line}: {some}{more}"


def digest(*parts: bytes) -> bytes:
    """Hash the bytes of one sample."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


def fingerprint(
    contents: dict[str, list[bytes]], labels: Mapping[str, Sequence[int]] | None = None, class_names: Sequence[str] = ()
) -> str:
    """SHA-256 of all samples by split, and of their classes."""
    hashed = hashlib.sha256("\0".join(class_names).encode(errors="surrogateescape"))
    for split, samples in sorted(contents.items()):
        hashed.update(f"{split} {len(samples)} ".encode())
        hashed.update(b"".join(samples))
        hashed.update(" ".join(map(str, labels[split] if labels else ())).encode())
    return hashed.hexdigest()


def _counted(each: LeftOut) -> str:
    return f"{each.count:,} {each.what}"


def _line(title: str, item: str) -> str:
    return f"{title:<{WIDTH}} {item}"


def _first(title: str, items: Sequence[str]) -> list[str]:
    shown = items if len(items) <= NUM_LINES else [*items[: NUM_LINES - 1], f"{len(items) - NUM_LINES + 1} more: {ALL}"]
    return [_line(title, item) for item in shown]


def _short(text: object, most: int = 30) -> str:
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"
