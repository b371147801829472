"""`lab export`: a finished run as one file, which is there only if it answers as the checkpoint does."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from lab import runs
from lab.data.base import Data
from lab.data.facts import scored
from lab.engine.display import say
from lab.engine.errors import RunError, UserError, fail, unknown
from lab.engine.folder import read_json, write_json
from lab.engine.training import process
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.base import Arrays, Feature, padded
from lab.tasks.base import Task
from lab.verbs import predictor
from lab.verbs.export import program
from lab.verbs.export.program import FORMATS, Answer, Format
from lab.verbs.predictor import Predictor, part_of

BATCH_SIZES = (1, 2, 7, 64)
NUM_IN_BATCHES = 64  # test samples that are answered in batches of each of these sizes
NUM_FOR_CALIBRATION = 512  # training samples
FLOAT32 = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
REPORT = "export.json"


def main(cfg: DictConfig) -> None:
    filter_warnings()
    chosen, output = asked(cfg)
    saved, data, task = runs.load(cfg.run, cfg.data.root)
    process.set_up_process(saved)
    checkpoint = predictor.from_run(cfg.run, OmegaConf.create(FLOAT32))
    if cfg.int8 and not any(scored(data.facts.features, feature) for feature in checkpoint.outputs.values()):
        raise UserError("error: int8: it is for outputs with a score, such as classes: what it costs is measured.")
    reports, size = {}, program.example(cast(Task, task), data)
    if not size:
        raise UserError(f"error: export: {type(task).__name__} takes neither inputs nor `index`: it has no batch.")
    check_entries(cfg.format, size, checkpoint.outputs)
    runs.read(data, cfg.run)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder, silence():
        path = Path(folder) / output.name  # what fails leaves nothing
        make(chosen, task, data, path)
        reports[output.name] = prove(path, cfg.format, checkpoint, size, data)
        if cfg.int8:
            quantised = path.with_name(f"{path.stem}_int8.onnx")
            program.quantise(path, _given(some(data, "train", NUM_FOR_CALIBRATION, size), size), quantised)
            name, answer = quantised.name, chosen.read(quantised)
            reports[name] = report(quantised, "onnx, int8", checkpoint, answer, size, data)
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
        fail([unknown("format", str(cfg.format), FORMATS)])
    chosen = FORMATS[cfg.format]
    if not isinstance(cfg.int8, bool):
        fail([f"int8={cfg.int8}: it is true or false."])
    if cfg.int8 and cfg.format != "onnx":
        fail(["int8: it is for format=onnx."])
    if not all(map(find_spec, chosen.needs)):
        fail([f"format={cfg.format}: it takes {', '.join(chosen.needs)}: pip install 'lab[export]'"])
    output = Path(cfg.run) / chosen.name if cfg.output is None else Path(cfg.output)
    if output.suffix != Path(chosen.name).suffix:
        fail([f"output={output}: the name of this format's files ends in {Path(chosen.name).suffix}."])
    if not os.access(output.absolute().parent, os.W_OK):
        fail([f"output={output}: {output.absolute().parent} is not a folder that can be written to."])
    return chosen, output


def check_entries(kind: str, size: Arrays, outputs: dict[str, Feature]) -> None:
    """Refuse outputs whose entries a file can't tell apart.

    Args:
        kind: the format.
        size: the entries that the file takes.
        outputs: those of the task.

    Raises:
        UserError: two outputs have one entry; or in ONNX, whose names are unique, an input and an output have.
    """
    of_outputs: dict[str, str] = {}
    for name, feature in outputs.items():
        for entry in feature.entries:
            if entry in of_outputs:
                both = f"the outputs {of_outputs[entry]} and {name}" if of_outputs[entry] != name else name
                raise UserError(f"error: export: {both} have two entries named {entry}; give each another name.")
            if kind == "onnx" and entry in size:
                raise UserError(
                    f"error: format=onnx: an input and the output {name} have an entry named {entry}; give the output's"
                    " another name, or choose format=torch_export."
                )
            of_outputs[entry] = name


def make(chosen: Format, task: Any, data: Data, path: Path) -> None:
    """Raises RunError where torch, or the compiler, can't."""
    say(f"making       {path.name}")  # a translator takes a minute
    try:
        chosen.write(program.program(task, data), task, data, path)
    except Exception as error:  # of any kind
        raise RunError(f"error: export: {path.name} could not be made ({_reason(error)}).") from error


def report(path: Path, kind: str, checkpoint: Predictor, answer: Answer, size: Arrays, data: Data) -> dict[str, Any]:
    """How a file's answers differ from the checkpoint's: for all of the test split, in several batch sizes; and when.

    Args:
        path: the file.
        kind: its format.
        checkpoint: what is to be matched.
        answer: what the file makes of the inputs' entries.
        size: entries of samples of the size that the file takes.
        data: whose test split is answered.
    """
    outputs = checkpoint.outputs
    first = some(data, "test", NUM_IN_BATCHES, size)
    num = len(next(iter(first.values())))
    first = {name: array[np.arange(NUM_IN_BATCHES) % num] for name, array in first.items()}
    right, given = checkpoint.predict(first), _given(first, size)
    compared = {f"batches of {n}": _compared(right, _in_batches(answer, given, n), outputs) for n in BATCH_SIZES}
    right, given, target = _of_test_split(checkpoint, answer, size, data)
    compared["test split"] = _compared(right, given, outputs)
    return {
        "format": kind,
        "bytes": path.stat().st_size,
        "torch": torch.__version__,
        "max_difference": {name: max(each["difference"].values()) for name, each in compared.items()},
        "differing": {name: each["differing"] for name, each in compared.items()},
        "num_samples": len(data.splits["test"]),
        "same_answer": int((~np.any([each.differs(right, given) for each in outputs.values()], 0)).sum()),
        **_scores(right, given, target, outputs, data),
        "milliseconds": {
            f"batch of {n}": {
                "eager": _milliseconds(checkpoint.predict, entries),
                "exported": _milliseconds(answer, _given(entries, size)),
            }
            for n in (1, 64)
            for entries in [{name: array[:n] for name, array in first.items()}]
        },
        "num_threads": torch.get_num_threads(),
    }


def _of_test_split(checkpoint: Predictor, answer: Answer, size: Arrays, data: Data) -> tuple[Arrays, Arrays, Arrays]:
    """The answers of the checkpoint and of the file, and the targets."""
    length = len(data.splits["test"])
    entries = [name for each in checkpoint.outputs.values() for name in scored(data.facts.features, each)]
    parts = []
    for start in tqdm(range(0, length, 64), "Comparing", leave=False, disable=None):
        batch = _batch(data, "test", range(start, min(start + 64, length)))
        right, given = checkpoint.predict(_asked(batch, size)), answer(_padded(_given(batch, size), size))
        parts.append((right, given, {name: batch[name] for name in entries}))
    right, given, target = (_concatenated(each) for each in zip(*parts, strict=True))
    return right, given, target


def _compared(a: Arrays, b: Arrays, outputs: dict[str, Feature]) -> dict[str, dict[str, float]]:
    """By output the largest difference, and the share of the samples whose answers differ."""
    return {
        "difference": {name: float(np.max(each.difference(a, b))) for name, each in outputs.items()},
        "differing": {name: float(each.differs(a, b).mean()) for name, each in outputs.items()},
    }


def _scores(
    right: Arrays, given: Arrays, target: Arrays, outputs: dict[str, Feature], data: Data
) -> dict[str, dict[str, float]]:
    """`test_acc` and the like: of the checkpoint, and of the file. With several outputs, `test_<output>_acc`."""
    found: dict[str, dict[str, float]] = {}
    for name, feature in outputs.items():
        entries = scored(data.facts.features, feature)
        if not entries:
            continue
        prefix = f"test_{name}_" if len(outputs) > 1 else "test_"
        for which, made in (("checkpoint", right), ("exported", given)):
            scores = feature.scores(part_of(feature, made), {entry: target[entry] for entry in entries})
            for score, value in scores.items():
                found.setdefault(prefix + score, {})[which] = value
    return found


def prove(path: Path, kind: str, checkpoint: Predictor, size: Arrays, data: Data) -> dict[str, Any]:
    """The report on a file that answers as the checkpoint does.

    Raises:
        RunError: it does not.
    """
    try:
        made = report(path, kind, checkpoint, FORMATS[kind].read(path), size, data)
    except Exception as error:  # of any kind: it can't be opened, or not asked
        raise RunError(f"error: export: {path.name} is refused: it gives no answer ({_reason(error)}).") from error
    most = {name: feature.tolerance for name, feature in checkpoint.outputs.items()}
    if all(share <= most[name] for each in made["differing"].values() for name, share in each.items()):
        return made | {"tolerance": most}
    name, share = max(
        ((name, share) for each in made["differing"].values() for name, share in each.items()),
        key=lambda pair: pair[1] - most[pair[0]],
    )
    raise RunError(
        f"error: export: {path.name} is refused: it does not answer as the checkpoint does. In one comparison"
        f" {share:.0%} of the answers ({name}) differ (at most {most[name]:.0%} may), by up to"
        f" {np.max(list(made['max_difference'].values())):.2g}: {made['num_samples'] - made['same_answer']} of"
        f" {made['num_samples']} test samples. Nothing was written."
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def some(data: Data, name: str, num: int, size: Arrays) -> Arrays:
    """At most so many samples of a split, at equal distances, in the size that a file takes: what `_asked` gives."""
    length = len(data.splits[name])
    return _padded(_asked(_batch(data, name, range(0, length, -(-length // num))), size), size)


def _batch(data: Data, name: str, index: range) -> Arrays:
    return {entry: values.cpu().numpy() for entry, values in data.splits[name].__getitems__(list(index)).items()}


def _padded(entries: Arrays, size: Arrays) -> Arrays:
    return {name: padded(array, size[name].shape) if name in size else array for name, array in entries.items()}


def _given(batch: Arrays, size: Arrays) -> Arrays:
    """The entries that a file takes."""
    return {name: batch[name] for name in size}


def _asked(batch: Arrays, size: Arrays) -> Arrays:
    """The same and `index`, which shows a task that draws by it and does not say so."""
    return _given(batch, size) | {"index": batch["index"]}


def _in_batches(answer: Answer, entries: Arrays, size: int) -> Arrays:
    starts = range(0, len(next(iter(entries.values()))), size)
    return _concatenated([answer({k: array[i : i + size] for k, array in entries.items()}) for i in starts])


def _concatenated(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _milliseconds(answer: Answer, entries: Arrays, num: int = 15) -> float:
    """The median time of an answer."""
    seconds = []
    for _ in range(num + 2):
        start = time.perf_counter()
        answer(entries)
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds[2:])


def shown(name: str, report: dict[str, Any]) -> str:
    lines = {
        name: f"{report['format']}, {report['bytes'] / 2**20:.2f} MiB",
        "same answer": f"{report['same_answer']} of {report['num_samples']} test samples",
        "difference": f"{max(report['max_difference'].values()):.2g} at most"
        f" (batches of {', '.join(map(str, BATCH_SIZES))}, the test split)",
    }
    for key, score in report.items():
        if key.startswith("test_"):
            lines[key.replace("_", "/", 1)] = f"{score['exported']:.4f}, the checkpoint's {score['checkpoint']:.4f}"
    for size, times in report["milliseconds"].items():
        lines[size] = f"{times['exported']:.2f} ms, eager {times['eager']:.2f} ms"
    width = max(12, *map(len, lines))
    return "\n".join(f"{key:<{width}} {value}" for key, value in lines.items()) + "\n"
