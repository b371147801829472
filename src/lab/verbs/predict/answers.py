"""The answers of `lab predict`: a row of a table for each item, the files of outputs that are files, and lines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.engine.errors import UserError, blaming
from lab.engine.secrets import redacted
from lab.features.base import Feature, Row, Sample
from lab.verbs.predict import items
from lab.verbs.predict.items import Item
from lab.verbs.predictor import Predictor, part_of, prefixed


@dataclass(frozen=True)
class Answer:
    item: str
    row: Row  # for the table
    best: str = ""  # the first answer of each output; "": the item can't be read
    shown: str = "not readable"  # the same, and how sure it is


class Answers:
    """The answers of a predictor.

    Args:
        asked: what answers.
        top_k: the most answers of an output for an item.
        folder: where outputs that are files are written; None: nowhere.

    Raises:
        UserError: an output is a file, and there is no folder.
    """

    def __init__(self, asked: Predictor, top_k: int, folder: Path | None) -> None:
        self.asked, self.top_k = asked, top_k
        self.taken = {"error"}  # the headings so far
        alone = len(asked.inputs) == 1
        self.headings = {
            name: self._free((alone and feature.column) or name, "input") for name, feature in asked.inputs.items()
        }
        self.named: dict[tuple[str, str, int], str] = {}  # (output, column, rank) -> heading
        self.files = [name for name, each in asked.outputs.items() if each.is_file]
        if self.files and folder is None:
            raise UserError(f"error: output=-: {self.files[0]} is a file for each item; choose output=predictions.csv.")
        self.folder = folder if self.files else None
        example = asked.example()
        (answer,) = asked.answers([example], [0])
        rows = self.asked.rows(answer, example, top_k)
        self.columns = [*self._cells({name: self._with_file(name, rows[name], "") for name in rows})]

    def of(self, batches: Iterable[list[Item]]) -> Iterator[list[Answer]]:
        """An answer for each item, as the batches come."""
        number = 0
        for batch in batches:
            samples, errors = items.read(self.asked.inputs, batch)
            index = [number + i for i, error in enumerate(errors) if not error]
            made = self.asked.answers(samples, index) if samples else []
            given = iter(zip(made, samples, index, strict=True))
            yield [
                self._unread(item, error) if error else self._answer(item, *next(given))
                for item, error in zip(batch, errors, strict=True)
            ]
            number += len(batch)

    def _answer(self, item: Item, answer: Sample, sample: Sample, index: int) -> Answer:
        rows = self.asked.rows(answer, sample, self.top_k)
        rows = {name: self._with_file(name, rows[name], self._written(name, answer, index)) for name in rows}
        best = {name: _best(name, each[0]) if each else "" for name, each in rows.items()}
        sure = {name: _sure(self.asked.outputs[name], each) for name, each in rows.items()}
        alone = len(rows) == 1
        label = {name: "" if alone else f"{name}: " for name in rows}
        return Answer(
            self._name(item),
            self._row(item, self._cells(rows), ""),
            ", ".join(label[name] + text for name, text in best.items()),
            ", ".join(label[name] + "  ".join([*sure[name], text]) for name, text in best.items()),
        )

    def _unread(self, item: Item, error: str) -> Answer:
        return Answer(self._name(item), self._row(item, {}, redacted(error)))

    def _name(self, item: Item) -> str:
        return redacted(", ".join(item.cells.values()))

    def _row(self, item: Item, cells: Row, error: str) -> Row:
        given = {heading: redacted(item.cells.get(name, "")) for name, heading in self.headings.items()}
        return given | dict.fromkeys(self.columns) | cells | {"error": error}

    def _cells(self, rows: dict[str, list[Row]]) -> Row:
        """The rows of all outputs in one: class, probability, class_2 and so on."""
        return {
            self._heading(name, key, rank): value
            for name, each in prefixed(rows).items()
            for rank, row in enumerate(each, 1)
            for key, value in row.items()
        }

    def _heading(self, name: str, key: str, rank: int) -> str:
        """The heading of an output's column, the same for every item."""
        if (name, key, rank) not in self.named:
            self.named[name, key, rank] = self._free(f"{key}_{rank}" if rank > 1 else key, "predicted")
        return self.named[name, key, rank]

    def _free(self, heading: str, prefix: str) -> str:
        """A heading that no other column has."""
        while heading in self.taken:
            heading = f"{prefix}_{heading}"
        self.taken.add(heading)
        return heading

    def _with_file(self, name: str, rows: list[Row], path: str) -> list[Row]:
        if name not in self.files:
            return rows
        first, *others = rows or [{}]
        return [{name: path} | {key: value for key, value in first.items() if key != name}, *others]

    def _written(self, name: str, answer: Sample, index: int) -> str:
        """The path of an output's file, relative to the folder of the table."""
        if name not in self.files:
            return ""
        assert self.folder is not None
        made = self.asked.outputs[name].file(part_of(self.asked.outputs[name], answer))
        if made is None:
            return ""
        suffix, content = made
        path = self.folder / f"{index + 1:06d}{f'_{name}' if len(self.files) > 1 else ''}{suffix}"
        with blaming(f"output={path}: it could not be written"):
            self.folder.mkdir(exist_ok=True)
            with open(path, "xb") as file:  # nothing is overwritten
                file.write(content)
        return f"{self.folder.name}/{path.name}"


def _sure(feature: Feature, rows: list[Row]) -> list[str]:
    """The probability of the first choice."""
    return [f"{row['probability']:.4f}" for row in rows[:1] if feature.choices and "probability" in row]


def _best(name: str, row: Row) -> str:
    return str(row[name]) if name in row else ", ".join(f"{key} {value}" for key, value in row.items())
