"""What answers for images: a finished run, or a file that `lab export` made. Only the former imports torch."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab import config
from lab.errors import UserError

METADATA = "lab.json"  # the name, in an exported file, of what else there is to know: the next three, as JSON


@dataclass(frozen=True)
class Model:
    class_names: list[str]
    num_channels: int
    image_size: int  # pixels of the height and of the width
    probabilities: Callable[[np.ndarray], np.ndarray]  # (B, C, H, W) uint8 -> (B, num_classes) float32
    explain: Callable[[np.ndarray, int], np.ndarray] | None = None  # (C, H, W) uint8, class -> (H, W, 3) of 0 to 1


def of_onnx(path: Path, num_threads: int = 0) -> Model:
    """A file of `lab export format=onnx`.

    Args:
        path: the file.
        num_threads: 0: as OMP_NUM_THREADS says, or as many as there are cores.

    Raises:
        UserError: onnxruntime is not installed; the file is another.
    """
    if path.suffix != ".onnx":
        raise UserError(
            f"error: model={path}: it is to be an .onnx file; what holds code, as a .pt2 may, is not opened."
        )
    if not path.is_file():
        raise UserError(f"error: model={path}: there is no such file. lab export run=… format=onnx makes one.")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise UserError("error: model: it takes onnxruntime: pip install 'lab[export]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or int(os.environ.get("OMP_NUM_THREADS", 0))
    options.log_severity_level = 3  # errors
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        facts = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        (name,) = [node.name for node in session.get_inputs()]
        return Model(**facts, probabilities=lambda image: session.run(None, {name: image})[0])
    except Exception as error:  # onnxruntime's own have no base class
        raise UserError(
            f"error: model={path}: it is damaged, or none that lab export made ({' '.join(str(error).split())[:200]})."
        ) from error


def of_run(folder: str, accelerator: Any) -> Model:
    """The best weights of a finished run, on the `accelerator` asked for, in the run's precision.

    Raises:
        UserError: it is no finished run of images; there is no such accelerator.
    """
    from lab.cli import import_heavy

    run = import_heavy("lab.run")
    import torch

    from lab.data.images import ImageData
    from lab.tasks.classification import Classification

    config.quiet()  # Lightning sets its level where it is imported
    saved, data, task = run.load(folder)
    run.settle(saved)
    if not isinstance(data, ImageData):
        raise UserError(f"error: run={folder}: its data are no images.")
    trainer = run.evaluation_trainer(saved, accelerator)
    if trainer.world_size > 1:
        raise UserError("error: trainer: a run answers in one process; choose trainer=cpu or trainer=gpu.")
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    task = precision.convert_module(task).to(device)

    @torch.inference_mode()
    def probabilities(image: np.ndarray) -> np.ndarray:
        batch = data.on_after_batch_transfer({"image": torch.from_numpy(image).to(device)})
        with precision.forward_context():
            return task.predict_step(precision.convert_input(batch), 0).cpu().numpy()

    explain = _explainer(data, task, precision) if isinstance(task, Classification) else None
    return Model(data.facts.class_names, data.facts.num_channels, data.facts.image_size, probabilities, explain)


def _explainer(data: Any, task: Any, precision: Any) -> Callable[[np.ndarray, int], np.ndarray]:
    """Integrated gradients, laid over the image."""
    import torch

    def explain(image: np.ndarray, target: int) -> np.ndarray:
        from lab import attribution, overlay

        method: attribution.Method = attribution.integrated_gradients
        if task.test_time_flip:
            method = attribution.mirrored(method)
        pixels = torch.from_numpy(image)[None]
        batch = precision.convert_input(data.on_after_batch_transfer({"image": pixels.to(task.device)}))
        net = copy.deepcopy(task.net)  # a copy is not compiled
        with precision.forward_context():
            (values,) = method(net, batch["image"], torch.tensor([target], device=task.device))
        return overlay.overlay(pixels[0], values.detach())

    return explain


def mirrored(model: Model) -> Model:
    """Answers with the mean over an image and its mirror image."""

    def probabilities(image: np.ndarray) -> np.ndarray:
        return (model.probabilities(image) + model.probabilities(np.ascontiguousarray(image[..., ::-1]))) / 2

    return Model(model.class_names, model.num_channels, model.image_size, probabilities)
