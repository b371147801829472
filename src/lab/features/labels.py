import html
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lab.engine.errors import UserError
from lab.features.base import Arrays, Feature, Row, Sample
from lab.features.files import lines, without_end


@dataclass(frozen=True)
class ClassLabel(Feature):
    """One of several classes. As an input or a target, its index; as an output, the (C,) probabilities."""

    class_names: list[str]
    entry: str = "label"

    fact_names = ("num_classes", "class_names")
    item, column, in_json = "class", "class", "<the name of a class>"

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError("class_names are empty")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def about(self) -> str:
        return f"{self.num_classes} classes"

    @property
    def choices(self) -> list[str]:
        return self.class_names

    def find(self, source: str) -> Iterator[str]:
        """The lines of a file, each with the name of a class; `-`: of standard input."""
        return lines(source, "the name of a class")

    def numbered(self, number: int) -> str:
        """Every class in turn."""
        return self.class_names[number % self.num_classes]

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        text = content.decode(errors="surrogateescape")
        for same in (str, without_end, str.strip):  # a name may start or end with a space
            found = [i for i, name in enumerate(self.class_names) if same(name) == same(text)]
            if len(found) == 1:
                return {self.entry: np.array(found[0])}
        raise UserError(f"{text.strip()[:100]} is not a class; the classes are {', '.join(self.class_names[:20])}.")

    def example(self) -> Sample:
        return {self.entry: np.array(0)}

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        probability = sample[self.entry]
        order = np.argsort(-probability, kind="stable")[:top_k]
        return [{name: self.class_names[i], "probability": round(float(probability[i]), 4)} for i in order]

    def caption(self, sample: Sample) -> str:
        return self.class_names[int(sample[self.entry])]

    def html(self, sample: Sample) -> str:
        label = sample[self.entry]
        return html.escape(self.class_names[int(label)]) if label.ndim == 0 else ""

    def scores(self, output: Arrays, target: Arrays) -> dict[str, float]:
        (probability,), (label,) = output.values(), target.values()
        return {"acc": float((probability.argmax(-1) == label).mean())}

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) bool, true if the most probable class changes, or a probability by more than 1e-4."""
        first = a[self.entry].argmax(-1) != b[self.entry].argmax(-1)
        return first | super().differs(a, b)
