"""The predictions of `lab predict`: for each item a row of the output table, a line for the terminal, and files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.engine.errors import UserError, blaming
from lab.engine.secrets import redacted
from lab.features.base import Feature, Row, Sample
from lab.verbs.predict import items
from lab.verbs.predict.items import Item
from lab.verbs.predictor import Predictor, part_of, prefixed

MOST_ON_SHEET = 100


@dataclass(frozen=True)
class Prediction:
    """The prediction for one item."""

    item: str  # the item's name
    rows: list[Row]  # of the table: one, or one for each answer of an output with `many`
    best: str = ""  # the most probable value of each output; "" if the item cannot be read
    shown: str = "not readable"  # the same with probabilities, for the terminal


class Predictions:
    """Predicts items and puts the predictions into rows of one table.

    Args:
        predictor: makes the predictions.
        top_k: the maximal number of values of each output, the most probable first.
        folder: where outputs that are files, such as generated images, are written; None: nowhere.

    Raises:
        UserError: an output is a file, and there is no folder.
    """

    def __init__(self, predictor: Predictor, top_k: int, folder: Path | None) -> None:
        self.predictor, self.top_k = predictor, top_k
        self.taken = {"error"}  # the headings of the table so far
        is_single = len(predictor.inputs) == 1
        self.headings = {
            name: self._unused((is_single and feature.column) or name, "input")
            for name, feature in predictor.inputs.items()
        }
        self.output_headings: dict[tuple[str, str, int], str] = {}  # (output, column, rank) -> heading
        self.files = [name for name, output in predictor.outputs.items() if output.is_file]
        if self.files and folder is None:
            raise UserError(f"error: output=-: {self.files[0]} is a file for each item; choose output=predictions.csv.")
        self.folder = folder if self.files else None
        self.first: list[Sample] = []  # of the predictions, for the sheets
        example = predictor.example()
        (prediction,) = predictor.answers([example], [0])
        rows = predictor.rows(prediction, example, top_k)
        self.many = [name for name, output in predictor.outputs.items() if output.many]
        rows |= {name: [dict.fromkeys(predictor.outputs[name].many)] for name in self.many}
        self.columns = [*self._cells({name: self._with_file(name, rows[name], "") for name in rows})]

    def of(self, batches: Iterable[list[Item]]) -> Iterator[list[Prediction]]:
        """Yield the answers of each batch of items."""
        number = 0
        for batch in batches:
            samples, errors = items.read(self.predictor.inputs, batch)
            index = [number + i for i, error in enumerate(errors) if not error]
            predictions = self.predictor.answers(samples, index) if samples else []
            remaining = iter(zip(predictions, samples, index, strict=True))
            yield [
                self._unreadable(item, error) if error else self._answer(item, *next(remaining))
                for item, error in zip(batch, errors, strict=True)
            ]
            number += len(batch)

    def _answer(self, item: Item, prediction: Sample, sample: Sample, index: int) -> Prediction:
        if self.files and len(self.first) < MOST_ON_SHEET:
            self.first.append(prediction)
        rows = self.predictor.rows(prediction, sample, self.top_k)
        best = {
            name: ", ".join(str(row[self.predictor.outputs[name].many[0]]) for row in rows[name]) for name in self.many
        }
        paths = {name: self._write_file(name, prediction, sample, index) for name in rows}
        rows = {name: self._with_file(name, rows[name], paths[name]) for name in rows}
        best = {name: _best(name, each[0]) if each else "" for name, each in rows.items()} | best
        probability = {name: _probability(self.predictor.outputs[name], each) for name, each in rows.items()}
        label = {name: "" if len(rows) == 1 else f"{name}: " for name in rows}
        return Prediction(
            self._name(item),
            [self._row(item, self._cells(each), "") for each in self._table_rows(rows)],
            ", ".join(label[name] + text for name, text in best.items()),
            ", ".join(label[name] + "  ".join([*probability[name], text]) for name, text in best.items()),
        )

    def write_sheets(self) -> None:
        """Write one file that shows the first predictions, for each output that has such a file."""
        for name in self.files:
            output = self.predictor.outputs[name]
            if file := output.sheet([part_of(output, prediction) for prediction in self.first]):
                suffix, content = file
                self._create(f"sheet{f'_{name}' if len(self.files) > 1 else ''}{suffix}", content)

    def _unreadable(self, item: Item, error: str) -> Prediction:
        return Prediction(self._name(item), [self._row(item, {}, redacted(error))])

    def _table_rows(self, rows: dict[str, list[Row]]) -> list[dict[str, list[Row]]]:
        """The rows of all outputs, for each row of the table: one for each answer of an output with `many`."""
        if not self.many:
            return [rows]
        return [rows | {name: [row]} for name in self.many for row in rows[name] or [{}]]

    def _name(self, item: Item) -> str:
        return redacted(", ".join(item.cells.values()))

    def _row(self, item: Item, cells: Row, error: str) -> Row:
        inputs = {heading: redacted(item.cells.get(name, "")) for name, heading in self.headings.items()}
        return inputs | dict.fromkeys(self.columns) | cells | {"error": error}

    def _cells(self, rows: dict[str, list[Row]]) -> Row:
        """Join the rows of all outputs into one: class, probability, class_2, probability_2, …."""
        return {
            self._heading(name, key, rank): value
            for name, each in prefixed(rows).items()
            for rank, row in enumerate(each, 1)
            for key, value in row.items()
        }

    def _heading(self, name: str, key: str, rank: int) -> str:
        """The heading of an output's column. It is the same for all items."""
        if (name, key, rank) not in self.output_headings:
            heading = self._unused(f"{key}_{rank}" if rank > 1 else key, "predicted")
            self.output_headings[name, key, rank] = heading
        return self.output_headings[name, key, rank]

    def _unused(self, heading: str, prefix: str) -> str:
        """The heading, with the prefix if another column has the same heading."""
        while heading in self.taken:
            heading = f"{prefix}_{heading}"
        self.taken.add(heading)
        return heading

    def _with_file(self, name: str, rows: list[Row], path: str) -> list[Row]:
        """Put the path of an output's file in front of its best row, or of each answer of an output with `many`."""
        if name not in self.files:
            return rows
        if name in self.many:
            return [{name: path} | row for row in rows or [{}]]
        best, *others = rows or [{}]
        return [{name: path} | {key: value for key, value in best.items() if key != name}, *others]

    def _write_file(self, name: str, prediction: Sample, sample: Sample, index: int) -> str:
        """Write the file of an output; return its path relative to the folder of the table, or ""."""
        if name not in self.files:
            return ""
        output = self.predictor.outputs[name]
        file = output.file(part_of(output, prediction), sample)
        if file is None:
            return ""
        suffix, content = file
        return self._create(f"{index + 1:06d}{f'_{name}' if len(self.files) > 1 else ''}{suffix}", content)

    def _create(self, name: str, content: bytes) -> str:
        """Write a new file; return its path relative to the parent of the folder."""
        assert self.folder is not None
        path = self.folder / name
        with blaming(f"output={path}: it could not be written"):
            self.folder.mkdir(exist_ok=True)
            with open(path, "xb") as stream:  # x: no file is overwritten
                stream.write(content)
        return f"{self.folder.name}/{path.name}"


def _probability(feature: Feature, rows: list[Row]) -> list[str]:
    """The probability of the best row, in a list; [] if the output has no probabilities."""
    return [f"{row['probability']:.4f}" for row in rows[:1] if feature.choices and "probability" in row]


def _best(name: str, row: Row) -> str:
    return str(row[name]) if name in row else ", ".join(f"{key} {value}" for key, value in row.items())
