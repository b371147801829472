"""`lab predict`: the answers of a finished run, or of an exported model, for your files.

This module imports nothing heavy: predicting with an exported model does not load torch.
"""

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, TextIO

from omegaconf import DictConfig
from pydantic import PositiveInt
from tqdm import tqdm

from lab.engine.config.settings import wrong_settings
from lab.engine.display import csv_cell, printable, say
from lab.engine.errors import RunError, blaming, fail
from lab.engine.files import atomic_write
from lab.features.base import Row
from lab.verbs import predictor
from lab.verbs.predict import items
from lab.verbs.predict.answers import Answer, Answers
from lab.verbs.predict.items import Item

BATCH_SIZE = 64
NUM_SHOWN = 20
HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # of surrogate pairs; the others stand for bytes of a file's name


def main(cfg: DictConfig) -> None:
    check(cfg)
    asked = predictor.from_config(cfg)
    if cfg.flip:
        asked = predictor.mirrored(asked)
    output, to_file = str(cfg.output), cfg.output != "-"
    talk = cfg.input == "-" and sys.stdin.isatty()
    with blaming(f"input={cfg.input}: it could not be read"):
        found = items.find(asked.inputs, str(cfg.input))
    batches = as_they_come(found) if cfg.input == "-" else in_batches(found)
    batches = blamed(batches, f"input={cfg.input}: it could not be read")
    answers = Answers(asked, cfg.top_k, Path(output).with_suffix("") if to_file else None)
    if answers.folder:
        check_folder(answers.folder, output)
    shown: list[Answer] = []
    num = bad = 0
    total = len(found) if isinstance(found, Sequence) else None
    with writing(output) as write, tqdm(total=total, desc="Predicting", leave=False, disable=None) as bar:
        for batch in answers.of(batches):
            write(batch)
            num, bad = num + len(batch), bad + sum(bool(answer.row["error"]) for answer in batch)
            shown += batch[: NUM_SHOWN - len(shown)]
            if talk and to_file:
                say(*(answer.shown for answer in batch))
            bar.update(len(batch))
    if to_file and not talk:
        show(shown, num - bad, num - len(shown), output)
    if answers.files and num > bad:
        say(f"{' and '.join(answers.files)}: files in {answers.folder}")
    if bad:
        where = f"{output} says why, under error" if to_file else "their lines are empty"
        raise RunError(f"error: input: {bad} of {num} could not be read; {where}.")


@dataclass
class Settings:
    """The types of those keys of conf/predict.yaml whose defaults do not show them."""

    top_k: PositiveInt


def check(cfg: DictConfig) -> None:
    """Raises UserError if the config is invalid."""
    output = Path(str(cfg.output))
    problems = [*wrong_settings("predict", cfg, Settings), *predictor.wrong_source(cfg)]
    if cfg.output != "-" and output.suffix not in KINDS:
        problems.append(f"output={output}: expected a name that ends in {', '.join(KINDS)}, or - for standard output")
    if output.exists() and Path(str(cfg.input)).exists() and output.samefile(str(cfg.input)):
        problems.append(f"output={output}: this is the input, which would be lost; name another file")
    if not output.absolute().parent.is_dir():
        problems.append(f"output={output}: the folder {output.absolute().parent} does not exist; make it first")
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        problems.append(f"output={output}: this needs pyarrow: pip install pyarrow")
    if problems:
        fail(problems)


def check_folder(folder: Path, output: str) -> None:
    """Raises UserError unless the folder of the outputs' files is new or empty."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        fail([f"output={output}: {folder} is not a folder for its files; choose another name."])
    if folder.exists() and any(folder.iterdir()):
        fail([f"output={output}: the folder {folder} is not empty; choose another name."])


def blamed(batches: Iterable[list[Item]], what: str) -> Iterator[list[Item]]:
    with blaming(what):
        yield from batches


def in_batches(found: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(found)
    while batch := list(islice(rest, BATCH_SIZE)):
        yield batch


def as_they_come(found: Iterable[Item]) -> Iterator[list[Item]]:
    """What has come is a batch; nothing waits for what is still to come."""
    waiting: Queue[Item | BaseException | None] = Queue(BATCH_SIZE)

    def read() -> None:
        try:
            for item in found:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:  # for the thread that asks
            waiting.put(error)

    Thread(target=read, daemon=True).start()
    batch: list[Item] = []
    while True:
        item = waiting.get()
        if isinstance(item, Item):
            batch.append(item)
        if batch and (waiting.empty() or len(batch) == BATCH_SIZE or not isinstance(item, Item)):
            yield batch
            batch = []
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


@contextmanager
def writing(output: str) -> Iterator[Callable[[Sequence[Answer]], None]]:
    """A function that writes answers to `output`. Only its errors, and those of opening and closing, are the output's.

    They are CSV, JSON lines or Parquet by the name; for `-`, a line each.
    """

    def of_output(function: Callable[..., Any], *arguments: Any) -> Any:
        with blaming(f"output={output}: it could not be written"):
            return function(*arguments)

    kind = Lines if output == "-" else KINDS[Path(output).suffix]
    opened = of_output(kind, output)
    try:
        yield lambda answers: of_output(opened.write, answers)
    finally:
        of_output(opened.close)


class Lines:
    """The best answer of each item on standard output."""

    def __init__(self, output: str) -> None: ...

    def write(self, answers: Sequence[Answer]) -> None:
        say(*(answer.best for answer in answers))

    def close(self) -> None:
        sys.stdout.flush()


class JsonLines:
    def __init__(self, output: str) -> None:
        self.file = opened(output)
        self.close = self.file.close

    def write(self, answers: Sequence[Answer]) -> None:
        self.file.writelines(json.dumps(answer.row) + "\n" for answer in answers)


class Table:
    """CSV. Columns that the first answers lack are added at the end: the header is written again, the rows are not."""

    def __init__(self, output: str) -> None:
        self.output, self.file = output, opened(output)
        self.table, self.columns = csv.writer(self.file), dict[str, None]()
        self.num_columns = self.start = 0  # of the header that is written, and the place where it ends

    def write(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self.columns |= dict.fromkeys(answer.row)
        if not self.num_columns:
            self.num_columns = len(self.columns)
            self.table.writerow(map(csv_cell, self.columns))
            self.start = self.file.tell() if self.file.seekable() else 0
        self.table.writerows([cell(answer.row.get(name)) for name in self.columns] for answer in answers)

    def close(self) -> None:
        self.file.close()
        if not (self.start and len(self.columns) > self.num_columns):
            return
        target = Path(os.path.realpath(self.output))
        with open(target, "rb") as rows, atomic_write(target) as whole, open(whole, "xb") as file:
            header = io.StringIO(newline="")
            csv.writer(header).writerow(map(csv_cell, self.columns))
            file.write(header.getvalue().encode(errors="surrogateescape"))
            rows.seek(self.start)
            shutil.copyfileobj(rows, file)


class Parquet:
    """All rows at once, at the end."""

    def __init__(self, output: str) -> None:
        self.output, self.rows = output, list[Row]()

    def write(self, answers: Sequence[Answer]) -> None:
        self.rows += [answer.row for answer in answers]

    def close(self) -> None:
        import pyarrow
        import pyarrow.parquet

        columns = dict.fromkeys(name for row in self.rows for name in row)
        encodable = [{k: utf8(v) if isinstance(v, str) else v for k, v in (columns | row).items()} for row in self.rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(encodable), self.output)


KINDS: dict[str, Callable[[str], Any]] = {".csv": Table, ".jsonl": JsonLines, ".parquet": Parquet}


def opened(output: str) -> TextIO:
    return open(output, "w", newline="", encoding="utf-8", errors="surrogateescape")


def cell(value: Any) -> Any:
    return (
        f"{value:.4f}" if isinstance(value, float) else csv_cell(encodable(value)) if isinstance(value, str) else value
    )


def encodable(text: str) -> str:
    r"""Half a surrogate pair, which JSON may have and no encoding has, becomes \ud83d or the like."""
    return HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def utf8(text: str) -> str:
    r"""A file's name need not be text: a byte that is not UTF-8 becomes \xe9 or the like."""
    return encodable(text).encode(errors="surrogateescape").decode(errors="backslashreplace")


def show(answers: Sequence[Answer], num: int, num_more: int, output: str) -> None:
    width = min(60, max((len(printable(answer.item)) for answer in answers), default=0))
    for answer in answers:
        say(f"{shortened(printable(answer.item), width):<{width}}  {answer.shown}")
    more = f" ({num_more} more than shown)" if num_more else ""
    say("", f"{num} predictions in {output}{more}")


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]} … {text[len(text) - (most - most // 2) + 2 :]}"
