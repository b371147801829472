"""What answers: a finished run, or a file that `lab export` made. Only the former imports torch."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lab import config, started
from lab.errors import UserError
from lab.inputs.base import Inputs, padded, unpack
from lab.outputs.base import Outputs

METADATA = "lab.json"  # the name, in an exported file, of what else there is to know: inputs, outputs, classes, as JSON

Said = list[dict[str, Any]]  # what an item's answer says: the best first, as many as there are


@dataclass(frozen=True)
class Model:
    inputs: Inputs
    answer: Callable[[np.ndarray], np.ndarray]  # (B, …) items -> (B, …)
    say: Callable[[np.ndarray, int], Said]  # an item's answer, and how much of it
    class_names: Sequence[str] = ()
    explain: Callable[[np.ndarray, np.ndarray], str] | None = None  # an item and its answer -> HTML


def answering(
    inputs: Inputs, answer: Callable[[np.ndarray], np.ndarray], outputs: Outputs | None, class_names: Sequence[str]
) -> Model:
    """With `outputs`, which read its answers; None: these are probabilities of classes."""
    if outputs:
        return Model(inputs, answer, lambda answer, top_k: [outputs.say(answer)])
    return Model(inputs, answer, partial(most_probable, class_names), class_names)


def most_probable(class_names: Sequence[str], probability: np.ndarray, top_k: int) -> Said:
    """The best first, with four decimals."""
    order = np.argsort(-probability, kind="stable")[:top_k]
    return [{"class": class_names[i], "probability": round(float(probability[i]), 4)} for i in order]


def of_onnx(path: Path, num_threads: int = 0) -> Model:
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
    options.intra_op_num_threads = num_threads or started.num_threads() or 0
    options.log_severity_level = 3  # errors
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        (entry,) = session.get_inputs()
        inputs: Inputs = unpack("inputs", **about["inputs"])
        outputs: Outputs | None = unpack("outputs", **about["outputs"]) if "outputs" in about else None
        class_names = () if outputs else about["class_names"]
        session.run(None, {entry.name: inputs.example})
    except Exception as error:  # onnxruntime's own have no base class
        if isinstance(error, UserError) and isinstance(error.__cause__, ImportError):
            raise  # a package is missing
        raise UserError(
            f"error: model={path}: it is damaged, or none that lab export made ({' '.join(str(error).split())[:200]})."
        ) from error

    def answer(items: np.ndarray) -> np.ndarray:
        made: np.ndarray = session.run(None, {entry.name: padded(items, entry.shape)})[0]
        return made

    return answering(inputs, answer, outputs, class_names)


def of_run(folder: str, accelerator: Any) -> Model:
    """The best weights of a finished run, on the `accelerator` asked for, in the run's precision.

    Raises:
        UserError: it is no finished run; its data take no items from outside, or its task has no answers for these;
            there is no such accelerator.
    """
    from lab.cli import import_heavy

    run = import_heavy("lab.run")
    import torch

    from lab.tasks.classification import Classification

    config.quiet()  # Lightning sets its level where it is imported
    saved, data, task = run.load(folder)
    run.settle(saved)
    trainer = run.evaluation_trainer(saved, accelerator)
    if trainer.world_size > 1:
        raise UserError("error: trainer: a run answers in one process; choose trainer=cpu or trainer=gpu.")
    device, precision, inputs = trainer.strategy.root_device, trainer.precision_plugin, data.inputs
    task = precision.convert_module(task).to(device)

    def prepared(items: np.ndarray) -> dict[str, torch.Tensor]:
        batch = {inputs.entry: torch.from_numpy(items).to(device)}
        return precision.convert_input(data.on_after_batch_transfer(batch))

    @torch.inference_mode()
    def answer(items: np.ndarray) -> np.ndarray:
        with precision.forward_context():
            return task.predict_step(prepared(items), 0).cpu().numpy()

    def explain(item: np.ndarray, answer: np.ndarray) -> str:
        """By integrated gradients."""
        kind = import_module(f"lab.explain.{inputs.kind}")  # captum is an extra
        method = kind.methods(inputs)["integrated_gradients"]
        net = copy.deepcopy(task.net)  # a copy is not compiled
        with precision.forward_context():
            target = torch.tensor([int(answer.argmax())], device=device)
            (values,) = method(net, prepared(item[None])[inputs.entry], target)
        return kind.html(inputs, item, values.detach())

    if task.outputs:
        return answering(inputs, answer, task.outputs, ())
    if isinstance(task, Classification):
        return replace(answering(inputs, answer, None, task.class_names), explain=explain)
    raise UserError(
        f"error: run={folder}: {type(task).__name__} says nothing of one's own inputs: it has no `outputs`."
    )


def mirrored(model: Model) -> Model:
    """Answers with the mean over an image and its mirror image.

    Raises:
        UserError: what it takes has none.
    """
    if not model.inputs.has_mirror_image:
        raise UserError(f"error: flip: {model.inputs.kind} have no mirror image.")

    def answer(items: np.ndarray) -> np.ndarray:
        return (model.answer(items) + model.answer(np.ascontiguousarray(items[..., ::-1]))) / 2

    return replace(model, answer=answer, explain=None)
