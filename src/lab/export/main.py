"""`lab export`: a finished run as one file, which is there only if it answers as the checkpoint does."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from lab import config, model, run
from lab.data.base import Data
from lab.display import say
from lab.errors import RunError, UserError
from lab.export import program
from lab.export.program import FORMATS, Answer, Format
from lab.folder import read_json, write_json
from lab.inputs.base import padded
from lab.test import read

TOLERANCE = 1e-4  # of a probability
SHARE = 0.02  # of answers that may be others, where they are texts: of two that are as likely, rounding chooses
BATCH_SIZES = (1, 2, 7, 64)
NUM_IN_BATCHES = 64  # test samples that are answered in batches of each of these sizes
NUM_FOR_CALIBRATION = 512  # training samples
FLOAT32 = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
REPORT = "export.json"


def main(cfg: DictConfig) -> None:
    config.quiet()
    chosen, output = asked(cfg)
    saved, data, task = run.load(cfg.run, cfg.data.root)
    run.settle(saved)
    checkpoint = model.of_run(cfg.run, OmegaConf.create(FLOAT32)).answer
    if cfg.int8 and task.outputs:
        raise UserError("error: int8: it is for classifiers.")
    read(data, cfg.run)
    reports = {}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder, silence():
        path = Path(folder) / output.name  # what fails leaves nothing
        make(chosen, task, data, path)
        reports[output.name] = prove(path, cfg.format, checkpoint, task, data)
        if cfg.int8:
            quantised = path.with_name(f"{path.stem}_int8.onnx")
            program.quantise(path, some(data, "train", NUM_FOR_CALIBRATION), quantised)
            name, answer = quantised.name, chosen.read(quantised)
            reports[name] = report(quantised, "onnx, int8", checkpoint, answer, task, data)
        for name in reports:
            os.replace(path.with_name(name), output.with_name(name))
    beside = output.with_name(REPORT)
    write_json(beside, (read_json(beside) if beside.exists() else {}) | reports)
    for name, each in reports.items():
        say(*shown(name, each).split("\n"))
    say(f"report       {beside}")


@contextmanager
def silence() -> Iterator[None]:
    """What the exporters say about their own work nobody can act on."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


def asked(cfg: DictConfig) -> tuple[Format, Path]:
    """The format, and the file to write.

    Raises:
        UserError: what was asked for can't be had.
    """
    if cfg.format not in FORMATS:
        config.fail([config.unknown("format", str(cfg.format), FORMATS)])
    chosen = FORMATS[cfg.format]
    if not isinstance(cfg.int8, bool):
        config.fail([f"int8={cfg.int8}: it is true or false."])
    if cfg.int8 and cfg.format != "onnx":
        config.fail(["int8: it is for format=onnx."])
    if not all(map(find_spec, chosen.needs)):
        config.fail([f"format={cfg.format}: it takes {', '.join(chosen.needs)}: pip install 'lab[export]'"])
    output = Path(cfg.run) / chosen.name if cfg.output is None else Path(cfg.output)
    if output.suffix != Path(chosen.name).suffix:
        config.fail([f"output={output}: the name of this format's files ends in {Path(chosen.name).suffix}."])
    if not os.access(output.absolute().parent, os.W_OK):
        config.fail([f"output={output}: {output.absolute().parent} is not a folder that can be written to."])
    return chosen, output


def make(chosen: Format, task: Any, data: Data, path: Path) -> None:
    """Raises RunError where torch, or the compiler, can't."""
    say(f"making       {path.name}")  # a translator takes a minute
    try:
        chosen.write(program.program(task, data), task, data, path)
    except Exception as error:  # of any kind
        raise RunError(f"error: export: {path.name} could not be made ({_reason(error)}).") from error


def report(path: Path, kind: str, checkpoint: Answer, answer: Answer, task: Any, data: Data) -> dict[str, Any]:
    """How a file's answers differ from the checkpoint's: for all of the test split, in several batch sizes; and when.

    Args:
        path: the file.
        kind: its format.
        checkpoint: what is to be matched.
        answer: what the file says, of items of the size that it takes.
        task: whose answers they are.
        data: whose test split is answered.
    """
    size, split = data.inputs.example.shape, data.splits["test"]
    first = some(data, "test", NUM_IN_BATCHES)
    first = first[np.arange(NUM_IN_BATCHES) % len(first)]
    right = checkpoint(first)
    differences = {f"batches of {n}": _difference(right, _in_batches(answer, first, n), task) for n in BATCH_SIZES}
    parts, labels = [], []
    for start in tqdm(range(0, len(split), 64), "Comparing", leave=False, disable=None):
        batch = split.__getitems__(list(range(start, min(start + 64, len(split)))))
        items = batch[data.inputs.entry].numpy()
        parts.append((checkpoint(items), answer(padded(items, size))))
        if not task.outputs:
            labels.append(batch["label"].numpy())
    right, given = map(np.concatenate, zip(*parts, strict=True))

    def accuracy(probability: np.ndarray) -> float:
        return float((probability.argmax(-1) == np.concatenate(labels)).mean())

    return {
        "format": kind,
        "bytes": path.stat().st_size,
        "torch": torch.__version__,
        "max_difference": differences | {"test split": _difference(right, given, task)},
        "num_samples": len(right),
        "same_answer": int((~_others(right, given, task)).sum()),
        "test_acc": {"checkpoint": accuracy(right), "exported": accuracy(given)} if labels else None,
        "milliseconds": {
            f"batch of {n}": {"eager": _milliseconds(checkpoint, items), "exported": _milliseconds(answer, items)}
            for n, items in ((1, first[:1]), (64, first))
        },
        "num_threads": torch.get_num_threads(),
    }


def prove(path: Path, kind: str, checkpoint: Answer, task: Any, data: Data) -> dict[str, Any]:
    """The report on a file that answers as the checkpoint does.

    Raises:
        RunError: it does not.
    """
    try:
        made = report(path, kind, checkpoint, FORMATS[kind].read(path), task, data)
    except Exception as error:  # of any kind: it can't be opened, or not asked
        raise RunError(f"error: export: {path.name} is refused: it gives no answer ({_reason(error)}).") from error
    differences, num = made["max_difference"].values(), made["num_samples"]
    others, most = num - made["same_answer"], SHARE if task.outputs else TOLERANCE
    if all(difference <= most for difference in differences) and (not others or task.outputs):  # of a nan nothing is
        return made | {"tolerance": most}
    worst = np.max(list(differences))
    if task.outputs:
        differs = f"{worst:.0%} of the answers in one comparison are others (at most {most:.0%} may be)"
    else:
        differs = f"A probability differs by {worst:.2g} (at most {most:g} may be)"
    raise RunError(
        f"error: export: {path.name} is refused: it does not answer as the checkpoint does. {differs}, the answers to"
        f" {others} of {num} test samples. Nothing was written."
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def some(data: Data, name: str, num: int) -> np.ndarray:
    """At most so many items of a split, at equal distances, in the size that an exported model takes."""
    split = data.splits[name]
    batch = split.__getitems__(list(range(0, len(split), -(-len(split) // num))))
    return padded(batch[data.inputs.entry].numpy(), data.inputs.example.shape)


def _in_batches(answer: Answer, items: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([answer(items[start : start + size]) for start in range(0, len(items), size)])


def _difference(a: np.ndarray, b: np.ndarray, task: Any) -> float:
    """The largest, of a probability; of outputs the share that are others."""
    return float(_others(a, b, task).mean()) if task.outputs else float(abs(a - b).max())


def _others(a: np.ndarray, b: np.ndarray, task: Any) -> np.ndarray:
    """(B,) whether they have different classes first, or are different outputs."""
    if task.outputs:
        return ~np.isclose(a, b, rtol=0, atol=TOLERANCE).reshape(len(a), -1).all(1)
    different: np.ndarray = a.argmax(-1) != b.argmax(-1)
    return different


def _milliseconds(answer: Answer, items: np.ndarray, num: int = 15) -> float:
    """The median time of an answer."""
    seconds = []
    for _ in range(num + 2):
        start = time.perf_counter()
        answer(items)
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds[2:])


def shown(name: str, report: dict[str, Any]) -> str:
    acc, num = report["test_acc"], report["num_samples"]
    lines = {
        name: f"{report['format']}, {report['bytes'] / 2**20:.2f} MiB",
        "same answer": f"{report['same_answer']} of {num} test samples",
    }
    if acc:
        lines |= {
            "difference": f"{max(report['max_difference'].values()):.2g} at most, of a probability"
            f" (batches of {', '.join(map(str, BATCH_SIZES))}, the test split)",
            "test/acc": f"{acc['exported']:.4f}, the checkpoint's {acc['checkpoint']:.4f}",
        }
    for size, times in report["milliseconds"].items():
        lines[size] = f"{times['exported']:.2f} ms, eager {times['eager']:.2f} ms"
    width = max(12, *map(len, lines))
    return "\n".join(f"{key:<{width}} {value}" for key, value in lines.items()) + "\n"
