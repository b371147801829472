"""`lab predict`: the predictions of a finished run or an exported model for the user's files.

This module imports nothing heavy: predicting with an exported model does not load torch.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Thread

from omegaconf import DictConfig
from pydantic import PositiveInt
from tqdm import tqdm

from lab.engine.config.settings import wrong_settings
from lab.engine.display import counted, printable, say
from lab.engine.errors import RunError, blaming, fail
from lab.features.base import Feature
from lab.verbs import predictor
from lab.verbs.predict import items
from lab.verbs.predict.items import Item
from lab.verbs.predict.predictions import Prediction, Predictions
from lab.verbs.predict.writers import WRITERS, writing

BATCH_SIZE = 64
NUM_SHOWN = 20
TABLE = "predictions.csv"  # in a folder that `output` names


def main(cfg: DictConfig) -> None:
    check(cfg)
    model = predictor.from_config(cfg)
    if cfg.flip:
        model = predictor.with_flip(model)
    output, to_file = str(table_of(cfg.output)), cfg.output != "-"
    is_dialog = cfg.input == "-" and sys.stdin.isatty()
    unreadable = f"input={cfg.input}: it could not be read"
    with blaming(unreadable):
        source = source_of(cfg, model.inputs)
    batches = blame_input(as_they_come(source) if cfg.input == "-" else in_batches(source), unreadable)
    folder = folder_of(cfg.output)
    predictions = Predictions(model, cfg.top_k, folder)
    if predictions.files and folder:
        check_folder(folder, output)
    if folder and is_folder(cfg.output):
        folder.mkdir(exist_ok=True)
    shown: list[Prediction] = []
    num = num_errors = 0
    total = len(source) if isinstance(source, Sequence) else None
    with writing(output) as write, tqdm(total=total, desc="Predicting", leave=False, disable=None) as bar:
        for batch in predictions.of(batches):
            write(batch)
            num, num_errors = num + len(batch), num_errors + sum(bool(each.rows[0]["error"]) for each in batch)
            shown += batch[: NUM_SHOWN - len(shown)]
            if is_dialog and to_file:
                say(*(prediction.shown for prediction in batch))
            bar.update(len(batch))
    if to_file and not is_dialog:
        show(shown, num - num_errors, num_errors, output)
    if predictions.files and num > num_errors:
        predictions.write_sheets()
        say(f"{' and '.join(predictions.files)}: files in {predictions.folder}")
    if num_errors:
        hint = f"see the column error in {output}" if to_file else "their lines are empty"
        raise RunError(f"error: input: {num_errors} of {num} items could not be read; {hint}.")


def source_of(cfg: DictConfig, inputs: Mapping[str, Feature]) -> Iterable[Item]:
    """The items to predict: those of `input`, or `num` that no source has.

    Raises:
        UserError: there are none.
    """
    fixed = {str(name): str(value) for name, value in cfg.inputs.items()}
    if problems := list(items.wrong_names(inputs, fixed)):
        fail(problems)
    if cfg.num is not None:
        return items.numbered(inputs, cfg.num, fixed)
    return items.find(inputs, str(cfg.input), fixed)


def is_folder(output: str) -> bool:
    """Return whether `output` names a folder for the table and the files."""
    return output.endswith("/")


def table_of(output: str) -> Path:
    """The table that `output` names, or that is in the folder that it names."""
    return Path(output) / TABLE if is_folder(output) else Path(output)


def folder_of(output: str) -> Path | None:
    """The folder for files of outputs; None: there is none."""
    return None if output == "-" else Path(output) if is_folder(output) else Path(output).with_suffix("")


@dataclass
class Settings:
    """The types of those keys of conf/predict.yaml whose defaults do not show them."""

    top_k: PositiveInt
    num: PositiveInt | None


def check(cfg: DictConfig) -> None:
    """Raises UserError if the config is invalid."""
    output = Path(str(cfg.output))
    problems = [*wrong_settings("predict", cfg, Settings), *predictor.wrong_source(cfg)]
    if cfg.input is None and cfg.num is None:
        problems.append("input is required: input=FILE; a task that generates takes num=NUMBER instead")
    if cfg.input is not None and cfg.num is not None:
        problems.append("input, num: expected one of them")
    if cfg.output != "-" and not is_folder(str(cfg.output)) and output.suffix not in WRITERS:
        problems.append(
            f"output={output}: expected a name that ends in {', '.join(WRITERS)} or /, or - for standard output"
        )
    if cfg.input is not None and output.exists() and Path(str(cfg.input)).exists() and output.samefile(str(cfg.input)):
        problems.append(f"output={output}: this is the input, which would be lost; name another file")
    if not output.absolute().parent.is_dir():
        problems.append(f"output={output}: the folder {output.absolute().parent} does not exist; make it first")
    if output.suffix == ".parquet" and not find_spec("pyarrow"):
        problems.append(f"output={output}: this needs pyarrow: pip install pyarrow")
    if problems:
        fail(problems)


def check_folder(folder: Path, output: str) -> None:
    """Raises UserError unless the folder for files of outputs is new or empty."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        fail([f"output={output}: {folder} exists and is not a folder; choose another name."])
    if folder.exists() and any(folder.iterdir()):
        fail([f"output={output}: the folder {folder} is not empty; choose another name."])


def blame_input(batches: Iterable[list[Item]], cause: str) -> Iterator[list[Item]]:
    """Yield the batches. An OSError while they are read becomes a RunError that starts with `cause`."""
    with blaming(cause):
        yield from batches


def in_batches(source: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(source)
    while batch := list(islice(remaining, BATCH_SIZE)):
        yield batch


def as_they_come(source: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items that have arrived as a batch, without waiting for a full batch."""
    waiting: Queue[Item | BaseException | None] = Queue(BATCH_SIZE)

    def read() -> None:
        try:
            for item in source:
                waiting.put(item)
            waiting.put(None)
        except BaseException as error:  # raised again in the main thread
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


def show(predictions: Sequence[Prediction], num: int, num_errors: int, output: str) -> None:
    """Print the first rows of the output, and how many predictions and errors it has."""
    width = min(60, max((len(printable(prediction.item)) for prediction in predictions), default=0))
    for prediction in predictions:
        say(f"{shortened(printable(prediction.item), width):<{width}}  {prediction.shown}")
    parts = [counted(num, "prediction"), *([counted(num_errors, "error")] if num_errors else [])]
    first = f"; the first {len(predictions)} rows are above" if num + num_errors > len(predictions) else ""
    say("", f"{output}: {', '.join(parts)}{first}")


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters, with … in the middle."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]} … {text[len(text) - (most - most // 2) + 2 :]}"
