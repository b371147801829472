"""A predictor is a finished run or an exported model that makes predictions. Only a run imports torch."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lab.engine.config.packages import OWN_PACKAGE
from lab.engine.errors import UserError
from lab.engine.launch import environment
from lab.features.base import Arrays, Feature, Row, Sample, stack, unpack, zero_padded
from lab.verbs.explain.base import explainer, unexplained

METADATA = "lab.json"  # the entry of an exported file that describes its inputs and outputs as JSON
NO_GRADIENTS = "An exported model has no gradients. Use lab serve run=FOLDER for explanations."


@dataclass(frozen=True)
class Predictor:
    """A function from samples to predictions, with the features that read its inputs and show its outputs.

    Args:
        inputs: the features of the inputs, by name.
        outputs: the features of the outputs, by name.
        predict: the entries of the inputs, and `index` (B,) int64 -> the entries of the outputs. Random numbers of
            generative tasks depend on `index` only.
        explain: a sample -> HTML that shows which parts of the input drove the prediction; None if there is none.
        unexplained: a sentence that tells why there is no explanation.
        most_compared: the number of test samples with which an exported file is compared; None: all.
    """

    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    predict: Callable[[Arrays], Arrays]
    explain: Callable[[Sample], str] | None = None
    unexplained: str = ""
    most_compared: int | None = None

    def example(self) -> Sample:
        """A sample of the largest size."""
        return {name: array for feature in self.inputs.values() for name, array in feature.example().items()}

    def answers(self, samples: Sequence[Sample], index: Sequence[int]) -> list[Sample]:
        """The prediction for each sample: the entries of the outputs.

        Args:
            samples: the entries of the inputs.
            index: the number of each sample, from which generative tasks draw.
        """
        outputs = self.predict(stack(samples) | {"index": np.array(index, np.int64)})
        return [{name: values[i] for name, values in outputs.items()} for i in range(len(samples))]

    def rows(self, answer: Sample, sample: Sample, top_k: int) -> dict[str, list[Row]]:
        """The table rows of a prediction, by output: at most `top_k` each, the most probable first."""
        return {name: each.rows(name, part_of(each, answer), sample, top_k) for name, each in self.outputs.items()}


def part_of(feature: Feature, sample: Sample) -> Sample:
    """The entries of one feature."""
    return {name: sample[name] for name in feature.entries}


def prefixed(rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Put the output's name in front of each column if there are several outputs; a column named like it stays."""
    if len(rows) == 1:
        return dict(rows)
    return {
        name: [{key if key == name else f"{name}_{key}": value for key, value in row.items()} for row in each]
        for name, each in rows.items()
    }


def wrong_source(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for each problem with `run`, `model` and `trainer` of a config, which `from_config` takes."""
    if (cfg.run is None) == (cfg.model is None):
        yield "run, model: expected one of them, run=FOLDER or model=FILE.onnx"
    if cfg.model is not None and cfg.trainer:
        yield "trainer: an exported model runs on the CPU; remove trainer="


def from_config(cfg: DictConfig) -> Predictor:
    """The predictor of `run=` or `model=`, for the user's inputs.

    Raises:
        UserError: the run or the model cannot be loaded, or takes no inputs.
    """
    predictor = from_run(cfg.run, cfg.trainer) if cfg.run else from_onnx(Path(cfg.model))
    if not predictor.inputs:
        source = f"run={cfg.run}: its task" if cfg.run else f"model={cfg.model}: it"
        raise UserError(
            f"error: {source} takes no inputs. To generate samples, call `predict_step` of the task, or the exported"
            " file, with `index`: the numbers of the samples to generate."
        )
    return predictor


def from_onnx(path: Path, num_threads: int = 0) -> Predictor:
    """The predictor of a file of `lab export format=onnx`.

    Args:
        path: the file.
        num_threads: the number of threads; 0: as OMP_NUM_THREADS says, or one per core.

    Raises:
        UserError: onnxruntime or a package of the model is not installed, or the file is not an export of lab.
    """
    if path.suffix != ".onnx":
        raise UserError(f"error: model={path}: expected an .onnx file; .pt2 files can contain code and are not loaded.")
    if not path.is_file():
        raise UserError(f"error: model={path}: there is no such file. lab export run=FOLDER format=onnx makes one.")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UserError("error: model: onnxruntime is not installed. pip install 'lab-template[export]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or environment.num_threads() or 0
    options.log_severity_level = 3  # errors

    def predict(arrays: Arrays) -> Arrays:
        entries = {entry.name: zero_padded(arrays[entry.name], entry.shape) for entry in session.get_inputs()}
        return dict(zip([entry.name for entry in session.get_outputs()], session.run(None, entries), strict=True))

    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        metadata = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        if package := missing_package(metadata):
            raise UserError(
                f"error: model={path}: it needs the package {package}, which is not installed. {OWN_PACKAGE}"
            ) from ModuleNotFoundError(package)
        inputs, outputs = unpack(metadata["inputs"]), unpack(metadata["outputs"])
        entries = [entry.name for entry in session.get_inputs()]
        predictor = Predictor(inputs, outputs, predict, None, unexplained(inputs, outputs, entries) or NO_GRADIENTS)
        (answer, _) = predictor.answers([predictor.example()] * 2, (0, 1))
        predictor.rows(answer, predictor.example(), 1)
    except Exception as error:  # the errors of onnxruntime have no common base class
        if isinstance(error, UserError) and isinstance(error.__cause__, ImportError):
            raise  # a package is missing
        raise UserError(
            f"error: model={path}: it is damaged or not made by lab export ({' '.join(str(error).split())[:200]})."
        ) from error
    return predictor


def missing_package(metadata: Mapping[str, Mapping[str, Any]]) -> str:
    """The first package that defines a feature in a file's metadata and is not importable; "" if there is none."""
    for feature in chain(metadata["inputs"].values(), metadata["outputs"].values()):
        package = str(feature["_target_"]).partition(".")[0]
        if package.isidentifier() and find_spec(package) is None:
            return package
    return ""


def from_run(folder: str, accelerator: Any) -> Predictor:
    """The predictor of a finished run with its best weights, in the run's precision.

    Args:
        folder: the run's folder.
        accelerator: changes to the run's trainer, such as another accelerator.

    Raises:
        UserError: the run is not finished, its task has no outputs, or this machine has no such accelerator.
    """
    from lab.engine.cli import import_heavy

    runs = import_heavy("lab.runs")
    import torch

    from lab.data.facts import inputs_of

    saved, data, task = runs.load(folder)
    if not task.outputs:
        raise UserError(f"error: run={folder}: {type(task).__name__} has no `outputs`, so it makes no predictions.")
    trainer = runs.evaluation_trainer(saved, accelerator)
    if trainer.world_size > 1:
        raise UserError("error: trainer: predictions use one process; choose trainer=cpu or trainer=gpu.")
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    inputs, outputs = inputs_of(data.facts.features, task.input_entries) | task.settings, dict(task.outputs)
    entries = [entry for feature in outputs.values() for entry in feature.entries]
    task = precision.convert_module(task).to(device)

    def prepared(arrays: Arrays) -> dict[str, torch.Tensor]:
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return precision.convert_input(data.on_after_batch_transfer(batch))

    @torch.inference_mode()
    def predict(arrays: Arrays) -> Arrays:
        with precision.forward_context():
            tensors = task.predict_step(prepared(arrays), 0)
        # NumPy has no bfloat16
        float32 = {name: x.float() if (x := tensors[name]).is_floating_point() else x for name in entries}
        return {name: values.cpu().numpy() for name, values in float32.items()}

    reason = unexplained(inputs, outputs, task.input_entries)
    explain = None
    if not reason:
        explain = explanation(next(iter(inputs.values())), task.explained_net(), prepared, precision.forward_context)
    return Predictor(inputs, outputs, predict, explain, reason, task.most_compared)


def explanation(
    feature: Feature, net: Any, prepared: Callable[[Arrays], Mapping[str, Any]], forward_context: Callable[[], Any]
) -> Callable[[Sample], str]:
    """The function `Predictor.explain`, by integrated gradients.

    Args:
        feature: the only input.
        net: the explained net, a function of the input's entries.
        prepared: entries -> the batch as the net expects it.
        forward_context: the context of the precision.
    """
    import torch

    entry = feature.entries[0]
    net_copy = cache(lambda: copy.deepcopy(net))  # a copy is not compiled, and another thread may use the net

    def explain(sample: Sample) -> str:
        attribution = explainer(feature)
        front_end, explained = attribution.split(net_copy())
        with forward_context():
            x = front_end(prepared(stack([sample]) | {"index": np.zeros(1, np.int64)})[entry])
            with torch.no_grad():
                target = explained(x).argmax(-1)
            (values,) = attribution.methods()["integrated_gradients"](explained, x, target)
        return attribution.html(sample[entry], values.detach())

    return explain


def with_flip(predictor: Predictor) -> Predictor:
    """A predictor that averages the probabilities for a sample and its mirror image.

    Raises:
        UserError: no input can be mirrored, or an output has no probabilities.
    """
    images = [each for each in predictor.inputs.values() if each.mirrored(stack([each.example()])) is not None]
    if not images:
        raise UserError(f"error: flip: {' and '.join(predictor.inputs)} inputs cannot be mirrored; remove flip=true.")
    if without := [name for name, feature in predictor.outputs.items() if not feature.choices]:
        raise UserError(f"error: flip: only class probabilities can be averaged, not {without[0]}; remove flip=true.")

    def predict(arrays: Arrays) -> Arrays:
        mirrored = arrays
        for feature in images:
            mirrored = feature.mirrored(mirrored) or mirrored
        original, flipped = predictor.predict(arrays), predictor.predict(mirrored)
        return {name: (values + flipped[name]) / 2 for name, values in original.items()}

    return replace(
        predictor, predict=predict, explain=None, unexplained="An average of two predictions is not explained."
    )
