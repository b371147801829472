"""What was found in the data, used, and left out: a few lines on screen, all of it in the run's folder."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from torch import Tensor

from lab.display import printable
from lab.folder import DATA_REPORT

NUM_CLASSES, NUM_LINES, NUM_EXAMPLES = 5, 3, 20  # of the short report; examples of what was left out in the full one
WIDTH = 12
ALL = f"lab data, or {DATA_REPORT} in the run's folder"
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
LETTER = re.compile(r"[^\W\d_]")


@dataclass
class LeftOut:
    """Files, rows or parts of texts that are not used, all for the same reason."""

    what: str  # such as "images that can't be read"
    count: int
    examples: list[str]
    is_minor: bool = False  # it was no sample


@dataclass
class DataReport:
    """Filled while data is read. Names in it are relative to the data's root, for that may be a secret."""

    found: list[str] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)  # of each split
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # of each split: samples of each class
    left_out: list[LeftOut] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def find(self, what: str) -> None:
        self.found.append(f"{'found':<{WIDTH}} {what}")

    def leave_out(self, what: str, names: Iterable[object], count: int | None = None, is_minor: bool = False) -> None:
        """Note what is not used, by the names of some of it."""
        examples = [printable(name) for name in names]
        number = len(examples) if count is None else count
        if number:
            self.left_out.append(LeftOut(what, number, examples[:NUM_EXAMPLES], is_minor))

    def describe(self, contents: dict[str, list[bytes]], names: Mapping[str, Sequence[str]]) -> None:
        """Count the samples, and those that two splits share.

        Args:
            contents: of each split, a digest for each sample; equal samples have equal ones.
            names: of the samples of each split, as far as they have some.
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
        """Count the samples of each class in each split; a class without any is named."""
        counts = {split: Counter(label) for split, label in labels.items()}
        self.classes = {
            split: {name: of[i] for i, name in enumerate(class_names)} for split, of in sorted(counts.items())
        }
        for split in ("train", "val", "test"):
            lacking = [name for name, count in self.classes.get(split, {}).items() if not count]
            if lacking:
                rest = f" and {len(lacking) - NUM_CLASSES} more" if len(lacking) > NUM_CLASSES else ""
                named = ", ".join(map(_short, lacking[:NUM_CLASSES]))
                self.warnings.append(
                    f"{split} has no sample of {named}{rest}"
                    + (", and gives no score for it" if split == "test" else "")
                )

    def cut(self, lengths: Sequence[Tensor], max_length: int) -> None:
        """Count the sequences that are as long as they can be."""
        number = sum(int((length >= max_length).sum()) for length in lengths)
        self.leave_out(f"ends of texts that have {max_length} tokens or more (data.max_length)", (), number)

    def warn_of_words(self, texts: Sequence[str], tokens: str | None) -> None:
        """Say that a text without spaces is one word, where many are such."""
        some = texts[:: -(-len(texts) // 1000)]
        number = sum(2 * len(WITHOUT_SPACES.findall(text)) > len(LETTER.findall(text)) for text in some)
        if tokens == "words" and number > 0.1 * len(some):
            self.warnings.append(
                f"{number} of {len(some)} texts are in a script without spaces between words, where data.tokens=words"
                " finds few words; take data.tokens=characters"
            )

    def short(self) -> str:
        """At most a dozen lines, for the screen."""
        lines = self.found[:NUM_LINES]
        losses = sorted(self.left_out, key=lambda each: each.is_minor)
        lines = [*lines, *(self._split(split, NUM_CLASSES) for split in self.samples)]
        for title, items in (("warning", self.warnings), ("left out", list(map(_counted, losses)))):
            shown = items if len(items) <= NUM_LINES else [*items[: NUM_LINES - 1], f"{len(items) - 2} more: {ALL}"]
            lines += [f"{title:<{WIDTH}} {item}" for item in shown]
        return "\n".join(map(printable, lines))

    def full(self) -> str:
        lines = [*self.found, *(self._split(split, None) for split in self.samples)]
        lines += [f"{'warning':<{WIDTH}} {item}" for item in self.warnings]
        for each in self.left_out:
            lines.append(f"{'left out':<{WIDTH}} {_counted(each)}")
            lines += [f"{'':<{WIDTH}}   {_short(example, 200)}" for example in each.examples]
            if each.examples and each.count > len(each.examples):
                lines.append(f"{'':<{WIDTH}}   … and {each.count - len(each.examples):,} more")
        return "\n".join(map(printable, lines)) + "\n"

    def _split(self, split: str, most: int | None) -> str:
        line = f"{split:<{WIDTH}} {self.samples[split]:,} samples"
        classes = [(name, count) for name, count in self.classes.get(split, {}).items() if count]
        if not classes:
            return line
        some = ", ".join(f"{_short(name) if most else name} {count:,}" for name, count in classes[:most])
        more = f" and {len(classes) - most} classes more" if most and len(classes) > most else ""
        return f"{line}: {some}{more}"


def digest(*parts: bytes) -> bytes:
    """Of a sample's content."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


def fingerprint(
    contents: dict[str, list[bytes]], labels: Mapping[str, Sequence[int]] | None = None, class_names: Sequence[str] = ()
) -> str:
    """SHA-256 of all samples, split by split, and of their classes."""
    hashed = hashlib.sha256("\0".join(class_names).encode(errors="surrogateescape"))
    for split, samples in sorted(contents.items()):
        hashed.update(f"{split} {len(samples)} ".encode())
        hashed.update(b"".join(samples))
        hashed.update(" ".join(map(str, labels[split] if labels else ())).encode())
    return hashed.hexdigest()


def _counted(each: LeftOut) -> str:
    return f"{each.count:,} × {each.what}"


def _short(text: object, most: int = 30) -> str:
    line = printable(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"
