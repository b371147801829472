"""Writing predictions to a CSV, JSON lines or Parquet file, or to standard output."""

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lab.engine.display import csv_cell, say
from lab.engine.errors import blaming
from lab.engine.files import atomic_write
from lab.features.base import Row
from lab.verbs.predict.predictions import Prediction

UNPAIRED = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # unpaired surrogates; the others stand for bytes of a file name


@contextmanager
def writing(output: str) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """Yield a function that writes predictions to `output`, in the format of its suffix; -: one line for each item.

    Raises:
        RunError: the output cannot be opened, written or closed. Other errors inside the context are not changed.
    """

    def blame_output(function: Callable[..., Any], *arguments: Any) -> Any:
        with blaming(f"output={output}: it could not be written"):
            return function(*arguments)

    writer = blame_output(Lines if output == "-" else WRITERS[Path(output).suffix], output)
    try:
        yield lambda predictions: blame_output(writer.write, predictions)
    finally:
        blame_output(writer.close)


class Lines:
    """Prints the best value of each item on standard output."""

    def __init__(self, output: str) -> None: ...

    def write(self, predictions: Sequence[Prediction]) -> None:
        say(*(prediction.best for prediction in predictions))

    def close(self) -> None:
        sys.stdout.flush()


class JsonLines:
    def __init__(self, output: str) -> None:
        self.file = open_text(output)
        self.close = self.file.close

    def write(self, predictions: Sequence[Prediction]) -> None:
        self.file.writelines(json.dumps(row) + "\n" for prediction in predictions for row in prediction.rows)


class CsvTable:
    """Writes CSV. Columns that first appear in later rows are added at the end, where `close` rewrites the header."""

    def __init__(self, output: str) -> None:
        self.output, self.file = output, open_text(output)
        self.table, self.columns = csv.writer(self.file), dict[str, None]()
        self.num_columns = self.start = 0  # the columns of the written header, and the position after it

    def write(self, predictions: Sequence[Prediction]) -> None:
        rows = [row for prediction in predictions for row in prediction.rows]
        for row in rows:
            self.columns |= dict.fromkeys(row)
        if not self.num_columns:
            self.num_columns = len(self.columns)
            self.table.writerow(map(csv_cell, self.columns))
            self.start = self.file.tell() if self.file.seekable() else 0
        self.table.writerows([cell(row.get(name)) for name in self.columns] for row in rows)

    def close(self) -> None:
        self.file.close()
        if not (self.start and len(self.columns) > self.num_columns):
            return
        target = Path(os.path.realpath(self.output))
        with open(target, "rb") as rows, atomic_write(target) as complete, open(complete, "xb") as file:
            header = io.StringIO(newline="")
            csv.writer(header).writerow(map(csv_cell, self.columns))
            file.write(header.getvalue().encode(errors="surrogateescape"))
            rows.seek(self.start)
            shutil.copyfileobj(rows, file)


class Parquet:
    """Keeps all rows in memory and writes them at the end."""

    def __init__(self, output: str) -> None:
        self.output, self.rows = output, list[Row]()

    def write(self, predictions: Sequence[Prediction]) -> None:
        self.rows += [row for prediction in predictions for row in prediction.rows]

    def close(self) -> None:
        import pyarrow
        import pyarrow.parquet

        columns = dict.fromkeys(name for row in self.rows for name in row)
        encodable = [
            {key: escaped(cell) if isinstance(cell, str) else cell for key, cell in (columns | row).items()}
            for row in self.rows
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(encodable), self.output)


WRITERS: dict[str, Callable[[str], Any]] = {".csv": CsvTable, ".jsonl": JsonLines, ".parquet": Parquet}  # by suffix


def open_text(output: str) -> TextIO:
    return open(output, "w", newline="", encoding="utf-8", errors="surrogateescape")


def cell(value: Any) -> Any:
    """The CSV cell of a value."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return csv_cell(encodable(value)) if isinstance(value, str) else value


def encodable(text: str) -> str:
    r"""Replace unpaired surrogates, which JSON allows but no encoding does, by escapes such as \ud83d."""
    return UNPAIRED.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def escaped(text: str) -> str:
    r"""Replace bytes of a file name that are not UTF-8 by escapes such as \xe9."""
    return encodable(text).encode(errors="surrogateescape").decode(errors="backslashreplace")
