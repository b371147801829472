"""Comparing an exported file with the checkpoint it was made from: predictions, scores and speed.

The entries (arrays by name) of a batch are padded to the size that the file takes.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lab.data.base import Data
from lab.data.facts import scored
from lab.engine.errors import RunError
from lab.features.base import Arrays, Feature, zero_padded
from lab.verbs.export.program import FORMATS, Model
from lab.verbs.predictor import Predictor, part_of

BATCH_SIZES = (1, 2, 7, 64)
MOST_SECONDS = 10  # of the measurement of one time
NUM_IN_BATCHES = 64  # test samples that are predicted in batches of each of these sizes


def prove(path: Path, format_name: str, checkpoint: Predictor, size: Arrays, data: Data) -> dict[str, Any]:
    """The report on an exported file whose predictions agree with those of the checkpoint.

    Raises:
        RunError: the file cannot be run, or its predictions differ by more than each output's tolerance.
    """
    try:
        made = compare_with_checkpoint(path, format_name, checkpoint, FORMATS[format_name].read(path), size, data)
    except Exception as error:  # torch, onnxruntime and compilers raise anything
        raise RunError(f"error: export: {path.name} is refused: it cannot be run ({reason(error)}).") from error
    tolerance = {name: feature.tolerance for name, feature in checkpoint.outputs.items()}
    if all(share <= tolerance[name] for each in made["differing"].values() for name, share in each.items()):
        return made | {"tolerance": tolerance}
    name, share = max(
        ((name, share) for each in made["differing"].values() for name, share in each.items()),
        key=lambda pair: pair[1] - tolerance[pair[0]],
    )
    raise RunError(
        f"error: export: {path.name} is refused: its predictions differ from those of the checkpoint. In one comparison"
        f" {share:.0%} of the predictions ({name}) differ (at most {tolerance[name]:.0%} may), by up to"
        f" {np.max(list(made['max_difference'].values())):.2g}: {made['num_samples'] - made['same_answer']} of"
        f" {made['num_samples']} test samples. No file was written."
    )


def compare_with_checkpoint(
    path: Path, name: str, checkpoint: Predictor, model: Model, size: Arrays, data: Data
) -> dict[str, Any]:
    """Compare an exported file with the checkpoint, on the test split and in several batch sizes.

    Args:
        path: the file.
        name: its format, for the report.
        checkpoint: the predictor that the file must agree with.
        model: the function in the file.
        size: an example batch of the size that the file takes.
        data: its test split is predicted.
    """
    outputs = checkpoint.outputs
    samples = some(data, "test", NUM_IN_BATCHES, size)
    num = len(next(iter(samples.values())))
    samples = {name: array[np.arange(NUM_IN_BATCHES) % num] for name, array in samples.items()}
    expected, inputs = checkpoint.predict(samples), inputs_of_file(samples, size)
    compared = {f"batches of {n}": _compare(expected, _in_batches(model, inputs, n), outputs) for n in BATCH_SIZES}
    expected, actual, target = _on_test_split(checkpoint, model, size, data)
    compared["test split"] = _compare(expected, actual, outputs)
    return {
        "format": name,
        "bytes": path.stat().st_size,
        "torch": torch.__version__,
        "max_difference": {name: max(each["difference"].values()) for name, each in compared.items()},
        "differing": {name: each["differing"] for name, each in compared.items()},
        "num_samples": len(next(iter(expected.values()))),
        "same_answer": int((~np.any([each.differs(expected, actual) for each in outputs.values()], 0)).sum()),
        **_scores(expected, actual, target, outputs, data),
        "milliseconds": {
            f"batch of {n}": {
                "eager": _milliseconds(checkpoint.predict, entries),
                "exported": _milliseconds(model, inputs_of_file(entries, size)),
            }
            for n in (1, 64)
            for entries in [{name: array[:n] for name, array in samples.items()}]
        },
        "num_threads": torch.get_num_threads(),
    }


def _on_test_split(checkpoint: Predictor, model: Model, size: Arrays, data: Data) -> tuple[Arrays, Arrays, Arrays]:
    """The predictions of the checkpoint and of the file, and the targets; evenly spaced samples if not all."""
    length = len(data.splits["test"])
    num = min(length, checkpoint.most_compared or length)
    index = [i * length // num for i in range(num)]  # evenly spaced
    entries = [name for each in checkpoint.outputs.values() for name in scored(data.facts.features, each)]
    parts = []
    for start in tqdm(range(0, len(index), 64), "Comparing", leave=False, disable=None):
        batch = _with_settings(_batch(data, "test", index[start : start + 64]), size)
        expected = checkpoint.predict(_inputs_of_checkpoint(batch, size))
        actual = model(_padded(inputs_of_file(batch, size), size))
        parts.append((expected, actual, {name: batch[name] for name in entries}))
    expected, actual, target = (_concatenated(each) for each in zip(*parts, strict=True))
    return expected, actual, target


def _compare(expected: Arrays, actual: Arrays, outputs: dict[str, Feature]) -> dict[str, dict[str, float]]:
    """By output: the largest difference, and the share of the samples whose predictions differ."""
    return {
        "difference": {name: float(np.max(each.difference(expected, actual))) for name, each in outputs.items()},
        "differing": {name: float(each.differs(expected, actual).mean()) for name, each in outputs.items()},
    }


def _scores(
    expected: Arrays, actual: Arrays, target: Arrays, outputs: dict[str, Feature], data: Data
) -> dict[str, dict[str, float]]:
    """Scores such as `test_acc` of the checkpoint and of the file; with several outputs `test_<output>_acc`."""
    scores: dict[str, dict[str, float]] = {}
    for name, feature in outputs.items():
        entries = scored(data.facts.features, feature)
        if not entries:
            continue
        prefix = f"test_{name}_" if len(outputs) > 1 else "test_"
        for source, predictions in (("checkpoint", expected), ("exported", actual)):
            values = feature.scores(part_of(feature, predictions), {entry: target[entry] for entry in entries})
            for score, value in values.items():
                scores.setdefault(prefix + score, {})[source] = value
    return scores


def some(data: Data, split: str, num: int, size: Arrays) -> Arrays:
    """At most `num` evenly spaced samples of a split, with `index`, padded to the size that the file takes."""
    length = len(data.splits[split])
    batch = _with_settings(_batch(data, split, range(0, length, -(-length // num))), size)
    return _padded(_inputs_of_checkpoint(batch, size), size)


def _batch(data: Data, split: str, index: Sequence[int]) -> Arrays:
    return {entry: values.cpu().numpy() for entry, values in data.splits[split].__getitems__(list(index)).items()}


def _with_settings(batch: Arrays, size: Arrays) -> Arrays:
    """Add the inputs that the data does not have, with the values of the example."""
    num = len(batch["index"])
    return {name: array[np.zeros(num, np.int64)] for name, array in size.items() if name not in batch} | batch


def _padded(entries: Arrays, size: Arrays) -> Arrays:
    return {name: zero_padded(array, size[name].shape) if name in size else array for name, array in entries.items()}


def inputs_of_file(batch: Arrays, size: Arrays) -> Arrays:
    """The entries of a batch that the file takes."""
    return {name: batch[name] for name in size}


def _inputs_of_checkpoint(batch: Arrays, size: Arrays) -> Arrays:
    """The same entries and `index`: a task that draws from `index` without declaring it then differs from the file."""
    return inputs_of_file(batch, size) | {"index": batch["index"]}


def _in_batches(model: Model, entries: Arrays, batch_size: int) -> Arrays:
    starts = range(0, len(next(iter(entries.values()))), batch_size)
    return _concatenated([model({k: array[i : i + batch_size] for k, array in entries.items()}) for i in starts])


def _concatenated(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _milliseconds(model: Model, entries: Arrays, num: int = 15) -> float:
    """The median time of a call, after two calls to warm up; of fewer calls if these take seconds."""
    times: list[float] = []
    while len(times) < num + 2 and not (len(times) > 2 and sum(times) > MOST_SECONDS):
        start = time.perf_counter()
        model(entries)
        times.append(time.perf_counter() - start)
    return 1000 * median(times[2:])


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def table(name: str, report: dict[str, Any]) -> str:
    """The lines that are printed about a file."""
    lines = {
        name: f"{report['format']}, {report['bytes'] / 2**20:.2f} MiB",
        "same": f"predictions for {report['same_answer']} of {report['num_samples']} test samples",
        "difference": f"{max(report['max_difference'].values()):.2g} at most"
        f" (batches of {', '.join(map(str, BATCH_SIZES))}, the test split)",
    }
    for key, score in report.items():
        if key.startswith("test_"):
            lines[key.replace("_", "/", 1)] = f"{score['exported']:.4f}; checkpoint {score['checkpoint']:.4f}"
    for size, times in report["milliseconds"].items():
        lines[size] = f"{times['exported']:.2f} ms, eager {times['eager']:.2f} ms"
    width = max(12, *map(len, lines))
    return "\n".join(f"{key:<{width}} {value}" for key, value in lines.items()) + "\n"
