"""Generated texts in the real formats. `data.tiny=true` reads them with the code for the real data."""

import csv
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lab.data.tiny import written

FILLERS = ["the", "a", "of", "it", "film", "was", "and", "in", "café", "今日", "🎬", "مرحبا", "don't", "…"]
TELLING = [["good", "fine", "glad"], ["bad", "dull", "sad"], ["long", "slow", "late"], ["new", "odd", "loud"]]


def sentences(num: int, num_classes: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Texts of up to 12 words, one or two of which tell the class; and balanced classes."""
    random = np.random.default_rng(seed)
    label = [i % num_classes for i in range(num)]
    texts = []
    for value in label:
        words = [*random.choice(FILLERS, random.integers(0, 11)), *random.choice(TELLING[value], random.integers(1, 3))]
        texts.append(" ".join(random.permutation(words)))
    return texts, label


def csv_file() -> Path:
    """A CSV file with 150 texts of three classes in the columns text and label."""
    return written(_write_table) / "texts.csv"


def folder() -> Path:
    """A folder with 40 text files of each of three classes."""
    return written(_write_folder)


def pairs() -> Path:
    """A file of 200 pairs in the format of Tatoeba: English, French and a licence, separated by tabs."""
    return written(_write_pairs) / "fra.txt"


class HubSplit(dict[str, list]):
    """The columns of a split, with the attribute `features` of the `datasets` library."""

    def __init__(self, text: str, num: int, names: list[str], seed: int) -> None:
        texts, label = sentences(num, len(names), seed)
        super().__init__({text: texts, "label": label})
        self.features = {"label": SimpleNamespace(names=names)}


def hub(text: str, test: str) -> dict[str, HubSplit]:
    """A data set of four classes as the `datasets` library returns it; `text` is the column of the texts."""
    return {
        name: HubSplit(text, num, list("abcd"), seed)
        for seed, (name, num) in enumerate({"train": 160, test: 40}.items())
    }


def _write_table(root: Path) -> None:
    texts, label = sentences(150, 3)
    with open(root / "texts.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *zip(texts, ("abc"[value] for value in label), strict=True)])


def _write_folder(root: Path) -> None:
    texts, label = sentences(120, 3)
    for i, (text, value) in enumerate(zip(texts, label, strict=True)):
        path = root / "abc"[value] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def _write_pairs(root: Path) -> None:
    verbs = {"see": "vois", "have": "prends"}
    numbers = {"two": "deux", "three": "trois", "four": "quatre", "five": "cinq", "six": "six"}
    colours = {"red": "rouges", "black": "noirs", "": "", "green": "verts"}
    things = {"dogs": "chiens", "cats": "chats", "hats": "chapeaux", "boats": "bateaux", "trees": "arbres"}
    lines = []
    for number, colour, thing, verb in product(numbers, colours, things, verbs):
        source = ["I", verb, number, colour, thing]
        target = ["Je", verbs[verb], numbers[number], things[thing], colours[colour]]
        lines.append("\t".join(" ".join(filter(None, words)) + "." for words in (source, target)) + "\tmade up\n")
    (root / "fra.txt").write_text("".join(lines), encoding="utf-8")
