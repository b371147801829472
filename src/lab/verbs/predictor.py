"""Predictors: a finished run, or a file of `lab export`. Only a run imports torch."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from lab.engine.errors import UserError
from lab.engine.launch import environment
from lab.features.base import Arrays, Feature, Row, Sample, padded, stack, unpack
from lab.verbs.explain.base import explainer, unexplained

METADATA = "lab.json"  # the name, in an exported file, of its inputs and outputs as JSON
NO_GRADIENTS = "An exported model has no gradients: lab serve run=FOLDER explains its answers."


@dataclass(frozen=True)
class Predictor:
    """A function of samples, with the features that read them and show what it makes of them.

    Args:
        inputs: by name.
        outputs: by name.
        predict: the inputs' entries, and `index` (B,) int64 -> the outputs' entries. What it draws depends on `index`.
        explain: an input's sample -> HTML of what the answer came from; None: `unexplained` says why not.
        unexplained: a sentence.
    """

    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    predict: Callable[[Arrays], Arrays]
    explain: Callable[[Sample], str] | None = None
    unexplained: str = ""

    def example(self) -> Sample:
        """A sample of the largest size."""
        return {name: array for feature in self.inputs.values() for name, array in feature.example().items()}

    def answers(self, samples: Sequence[Sample], index: Sequence[int]) -> list[Sample]:
        """The outputs' entries for each sample."""
        made = self.predict(stack(samples) | {"index": np.array(index, np.int64)})
        return [{name: values[i] for name, values in made.items()} for i in range(len(samples))]

    def rows(self, answer: Sample, sample: Sample, top_k: int) -> dict[str, list[Row]]:
        """The rows of an answer by output: at most `top_k` each, the best first."""
        return {name: each.rows(name, part_of(each, answer), sample, top_k) for name, each in self.outputs.items()}


def part_of(feature: Feature, sample: Sample) -> Sample:
    """The entries of one feature."""
    return {name: sample[name] for name in feature.entries}


def prefixed(rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """With several outputs each column begins with the output's name, except the one that has this name."""
    if len(rows) == 1:
        return dict(rows)
    return {
        name: [{key if key == name else f"{name}_{key}": value for key, value in row.items()} for row in each]
        for name, each in rows.items()
    }


def from_config(cfg: DictConfig) -> Predictor:
    """The predictor of `run=` or `model=`, for inputs that a user gives.

    Raises:
        UserError: there is none, or it takes no inputs.
    """
    asked = from_run(cfg.run, cfg.trainer) if cfg.run else from_onnx(Path(cfg.model))
    if not asked.inputs:
        what = f"run={cfg.run}: its task" if cfg.run else f"model={cfg.model}: it"
        raise UserError(
            f"error: {what} takes no inputs, so there is no item to answer. Call its `predict_step`, or the exported"
            " file, with `index`, the numbers of the samples to make."
        )
    return asked


def from_onnx(path: Path, num_threads: int = 0) -> Predictor:
    """A file of `lab export format=onnx`.

    Args:
        path: the file.
        num_threads: 0: as OMP_NUM_THREADS says, or as many as there are cores.

    Raises:
        UserError: onnxruntime is not installed; the file is another.
    """
    if path.suffix != ".onnx":
        raise UserError(f"error: model={path}: expected an .onnx file; what holds code, as a .pt2 may, is not opened.")
    if not path.is_file():
        raise UserError(f"error: model={path}: there is no such file. lab export run=… format=onnx makes one.")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UserError("error: model: it takes onnxruntime: pip install 'lab[export]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or environment.num_threads() or 0
    options.log_severity_level = 3  # errors

    def predict(arrays: Arrays) -> Arrays:
        given = {entry.name: padded(arrays[entry.name], entry.shape) for entry in session.get_inputs()}
        return dict(zip([entry.name for entry in session.get_outputs()], session.run(None, given), strict=True))

    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        if package := missing_package(about):
            raise UserError(
                f"error: model={path}: it takes the package {package}, which is not installed."
            ) from ModuleNotFoundError(package)
        inputs, outputs = unpack(about["inputs"]), unpack(about["outputs"])
        entries = [entry.name for entry in session.get_inputs()]
        asked = Predictor(inputs, outputs, predict, None, unexplained(inputs, outputs, entries) or NO_GRADIENTS)
        (answer, _) = asked.answers([asked.example()] * 2, (0, 1))
        asked.rows(answer, asked.example(), 1)
    except Exception as error:  # onnxruntime's own have no base class
        if isinstance(error, UserError) and isinstance(error.__cause__, ImportError):
            raise  # a package is missing
        raise UserError(
            f"error: model={path}: it is damaged, or none that lab export made ({' '.join(str(error).split())[:200]})."
        ) from error
    return asked


def missing_package(about: Mapping[str, Mapping[str, Any]]) -> str:
    """A package that defines one of the features in a file's metadata and is not installed; "": there is none."""
    for feature in chain(about["inputs"].values(), about["outputs"].values()):
        package = str(feature["_target_"]).partition(".")[0]
        if package.isidentifier() and find_spec(package) is None:
            return package
    return ""


def from_run(folder: str, accelerator: Any) -> Predictor:
    """The best weights of a finished run, on the `accelerator` asked for, in the run's precision.

    Raises:
        UserError: it is no finished run; its task has no outputs; there is no such accelerator.
    """
    from lab.engine.cli import import_heavy

    runs = import_heavy("lab.runs")
    import torch

    from lab.data.facts import inputs_of
    from lab.engine.training.lightning_quirks import filter_warnings
    from lab.engine.training.process import set_up_process

    filter_warnings()  # Lightning sets its level where it is imported
    saved, data, task = runs.load(folder)
    set_up_process(saved)
    if not task.outputs:
        raise UserError(f"error: run={folder}: {type(task).__name__} has no `outputs`, so it has nothing to predict.")
    trainer = runs.evaluation_trainer(saved, accelerator)
    if trainer.world_size > 1:
        raise UserError("error: trainer: a run answers in one process; choose trainer=cpu or trainer=gpu.")
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    inputs, outputs = inputs_of(data.facts.features, task.input_entries), dict(task.outputs)
    entries = [entry for feature in outputs.values() for entry in feature.entries]
    task = precision.convert_module(task).to(device)

    def prepared(arrays: Arrays) -> dict[str, torch.Tensor]:
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return precision.convert_input(data.on_after_batch_transfer(batch))

    @torch.inference_mode()
    def predict(arrays: Arrays) -> Arrays:
        with precision.forward_context():
            made = task.predict_step(prepared(arrays), 0)
        # NumPy has no bfloat16
        exact = {name: made[name].float() if made[name].is_floating_point() else made[name] for name in entries}
        return {name: values.cpu().numpy() for name, values in exact.items()}

    why = unexplained(inputs, outputs, task.input_entries)
    explain = None if why else explaining(next(iter(inputs.values())), task.net, prepared, precision.forward_context)
    return Predictor(inputs, outputs, predict, explain, why)


def explaining(
    feature: Feature, net: Any, prepared: Callable[[Arrays], Mapping[str, Any]], forward_context: Callable[[], Any]
) -> Callable[[Sample], str]:
    """`Predictor.explain` by integrated gradients.

    Args:
        feature: the one input.
        net: a function of its entry.
        prepared: entries -> the batch as the net gets it.
        forward_context: of the precision.
    """
    import torch

    (entry,) = feature.entries
    own_net = cache(lambda: copy.deepcopy(net))  # a copy is not compiled, and another thread may use the net

    def explain(sample: Sample) -> str:
        kind = explainer(feature)
        x = prepared(stack([sample]) | {"index": np.zeros(1, np.int64)})[entry]
        with forward_context():
            with torch.no_grad():
                target = own_net()(x).argmax(-1)
            (values,) = kind.methods()["integrated_gradients"](own_net(), x, target)
        return kind.html(sample[entry], values.detach())

    return explain


def mirrored(asked: Predictor) -> Predictor:
    """Answers with the mean probabilities for a sample and its mirror image.

    Raises:
        UserError: no input has one, or there is no mean of the outputs.
    """
    mirrors = [feature for feature in asked.inputs.values() if feature.mirrored(stack([feature.example()])) is not None]
    if not mirrors:
        raise UserError(f"error: flip: {' and '.join(asked.inputs)} inputs have no mirror image.")
    if without := [name for name, feature in asked.outputs.items() if not feature.choices]:
        raise UserError(f"error: flip: it is for classes; {without[0]} has no mean of two answers.")

    def predict(arrays: Arrays) -> Arrays:
        other = arrays
        for feature in mirrors:
            other = feature.mirrored(other) or other
        straight, flipped = asked.predict(arrays), asked.predict(other)
        return {name: (values + flipped[name]) / 2 for name, values in straight.items()}

    return replace(asked, predict=predict, explain=None, unexplained="The mean of two answers is not explained.")
