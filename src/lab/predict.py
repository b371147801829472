"""`lab predict`: the answers of a finished run, or of an exported model, for your files.

This module imports nothing heavy: predicting with an exported model does not load torch.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from lab import config, model
from lab.display import csv_cell, printable, say
from lab.errors import RunError
from lab.secrets import redacted

BATCH_SIZE = 64
NUM_SHOWN = 20
FORMATS = (".csv", ".jsonl", ".parquet")

Row = dict[str, Any]


def main(cfg: DictConfig) -> None:
    check(cfg)
    asked = model.of_run(cfg.run, cfg.trainer) if cfg.run else model.of_onnx(Path(cfg.model))
    if cfg.flip:
        asked = model.mirrored(asked)
    talk = cfg.input == "-" and sys.stdin.isatty()
    with blaming(f"input={cfg.input}: it could not be read"):
        items = asked.inputs.find(str(cfg.input))
    batches = as_they_come(items) if cfg.input == "-" else in_batches(items)
    batches = blamed(batches, f"input={cfg.input}: it could not be read")
    shown: list[Row] = []
    num = bad = 0
    with writing(str(cfg.output)) as write:
        for rows in answers(asked, batches, cfg.top_k, len(items) if isinstance(items, Sequence) else None):
            write(rows)
            num, bad = num + len(rows), bad + sum(bool(row["error"]) for row in rows)
            shown += rows[: NUM_SHOWN - len(shown)]
            if talk and cfg.output != "-":
                say(*map(said, rows))
    if cfg.output != "-" and not talk:
        show(shown, asked.inputs.column, num - bad, num - len(shown), cfg.output)
    if bad:
        where = f"{cfg.output} says why, under error" if cfg.output != "-" else "their lines are empty"
        raise RunError(f"error: input: {bad} of {num} could not be read; {where}.")


def check(cfg: DictConfig) -> None:
    """Raises UserError where something is asked for that can't be had."""
    output = Path(str(cfg.output))
    problems = []
    if (cfg.run is None) == (cfg.model is None):
        problems.append("run, model: say one of them, run=FOLDER or model=FILE.onnx.")
    if cfg.model is not None and cfg.trainer:
        problems.append("trainer: not with model=, which runs on the CPU.")
    if not isinstance(cfg.top_k, int) or cfg.top_k < 1:
        problems.append(f"top_k={cfg.top_k}: it is a number of classes, 1 or more.")
    if not isinstance(cfg.flip, bool):
        problems.append(f"flip={cfg.flip}: it is true or false.")
    if cfg.output != "-" and output.suffix not in FORMATS:
        problems.append(f"output={output}: its name is to end in {', '.join(FORMATS)}; or it is -, standard output.")
    if output.exists() and Path(str(cfg.input)).exists() and output.samefile(str(cfg.input)):
        problems.append(f"output={output}: it is the input, which would be lost.")
    if not output.absolute().parent.is_dir():
        problems.append(f"output={output}: there is no such folder.")
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        problems.append(f"output={output}: it takes pyarrow: pip install pyarrow")
    if problems:
        config.fail(problems)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turns an OSError into a RunError that begins with `what`. A closed pipe is left to `cli`, which ends silently."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"error: {what}: {error.strerror or error}.") from error


def blamed(batches: Iterable[list[str]], what: str) -> Iterator[list[str]]:
    with blaming(what):
        yield from batches


def in_batches(items: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH_SIZE)):
        yield batch


def as_they_come(items: Iterable[str]) -> Iterator[list[str]]:
    """What has come is a batch; nothing waits for what is still to come."""
    waiting: Queue[str | BaseException | None] = Queue(BATCH_SIZE)

    def read() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:  # for the thread that asks
            waiting.put(error)

    Thread(target=read, daemon=True).start()
    batch: list[str] = []
    while True:
        item = waiting.get()
        if isinstance(item, str):
            batch.append(item)
        if batch and (waiting.empty() or len(batch) == BATCH_SIZE or not isinstance(item, str)):
            yield batch
            batch = []
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def answers(asked: model.Model, batches: Iterable[list[str]], top_k: int, total: int | None) -> Iterator[list[Row]]:
    """A row for each item, as they come: what the model says, the best first, or what is wrong with the item."""
    columns = flat(asked.say(asked.answer(asked.inputs.example)[0], top_k))
    with tqdm(total=total, desc="Predicting", leave=False, disable=None) as bar:
        for batch in batches:
            array, errors = asked.inputs.read(batch)
            given = iter(asked.answer(array) if len(array) else ())
            found = [{} if error else flat(asked.say(next(given), top_k)) for error in errors]
            yield [
                {asked.inputs.column: redacted(item)}
                | dict.fromkeys(columns)
                | row
                | {"error": error and redacted(error)}
                for item, row, error in zip(batch, found, errors, strict=True)
            ]
            bar.update(len(batch))


def flat(said: model.Said) -> Row:
    """What is said, in one row: class, probability, class_2 and so on."""
    return {
        f"{name}_{rank}" if rank > 1 else name: value for rank, one in enumerate(said, 1) for name, value in one.items()
    }


@contextmanager
def writing(output: str) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that writes rows to `output`. Only its errors, and those of opening and closing, are the output's."""

    def of_output(function: Callable[..., Any], *arguments: Any) -> Any:
        with blaming(f"output={output}: it could not be written"):
            return function(*arguments)

    write, close = of_output(opened, output)
    try:
        yield partial(of_output, write)
    finally:
        of_output(close)


def opened(output: str) -> tuple[Callable[[Sequence[Row]], None], Callable[[], None]]:
    """Functions that write rows and that close: CSV, JSON lines or Parquet by the name; for `-`, a line an answer."""
    if output == "-":
        return lambda rows: say(*map(best, rows)), sys.stdout.flush
    if output.endswith(".parquet"):
        held: list[Row] = []
        return held.extend, lambda: write_parquet(held, output)
    file = open(output, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    table, is_empty = csv.writer(file), True

    def write(rows: Sequence[Row]) -> None:
        nonlocal is_empty
        if output.endswith(".jsonl"):
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        if is_empty:
            table.writerow(map(csv_cell, rows[0]))
            is_empty = False
        table.writerows(map(cell, row.values()) for row in rows)

    return write, file.close


def cell(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else csv_cell(value) if isinstance(value, str) else value


def write_parquet(rows: Sequence[Row], output: str) -> None:
    import pyarrow
    import pyarrow.parquet

    encodable = [{name: utf8(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(encodable), output)


def utf8(text: str) -> str:
    r"""A file's name need not be text: a byte that is not UTF-8 becomes \xe9 or the like."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def show(rows: Sequence[Row], column: str, num: int, num_more: int, output: str) -> None:
    width = min(60, max(len(printable(row[column])) for row in rows))
    for row in rows:
        say(f"{shortened(printable(row[column]), width):<{width}}  {said(row)}")
    more = f" ({num_more} more than shown)" if num_more else ""
    say("", f"{num} predictions in {output}{more}")


def said(row: Row) -> str:
    """The best answer, and how sure it is, where that is known."""
    if row["error"]:
        return "not readable"
    answer = best(row)
    return f"{row['probability']:.4f}  {answer}" if "probability" in row else answer


def best(row: Row) -> str:
    """The answer of a row; none where the item could not be read."""
    _, answer, *_ = row.values()
    return "" if row["error"] else str(answer)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]} … {text[len(text) - (most - most // 2) + 2 :]}"
