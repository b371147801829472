"""A trained task and its preprocessing as one module, and the files that this becomes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lab import model
from lab.data.images import ImageFacts
from lab.tasks.base import Task

Answer = Callable[[np.ndarray], np.ndarray]  # (B, C, H, W) uint8 -> (B, num_classes) probabilities

NOT_QUANTISED = ("Cast", "Sub", "Div", "Softmax")  # what stands before and behind the net


class Exported(nn.Module):
    """All that stands between the pixels and the probabilities.

    Args:
        task: in eval mode; it may answer with the mean over an image and its mirror image.
        facts: of the data, with the mean and standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, task: Task, facts: ImageFacts) -> None:
        super().__init__()
        self.task = task.eval()
        self.register_buffer("mean", 255 * torch.tensor(facts.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(facts.std)[:, None, None])
        task.net._compiled_call_impl = None  # of `compile: true`; it is the net itself that is exported

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) uint8 image -> (B, num_classes) probabilities."""
        return self.task({"image": (image.float() - self.mean) / self.std}).softmax(-1)


def program(task: Task, facts: ImageFacts) -> ExportedProgram:
    """The module as a graph, for batches of any size."""
    image = torch.zeros(2, facts.num_channels, facts.image_size, facts.image_size, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(Exported(task, facts), (image,), dynamic_shapes={"image": {0: Dim("batch")}})


def metadata(facts: ImageFacts) -> dict[str, str]:
    """What a file has to hold beside the graph, for `lab predict model=FILE` or anybody else to use it."""
    names = ("class_names", "num_channels", "image_size")
    return {model.METADATA: json.dumps({name: getattr(facts, name) for name in names})}


def write_onnx(graph: ExportedProgram, about: dict[str, str], path: Path) -> None:
    made = torch.onnx.export(graph, dynamo=True, verbose=False, output_names=["probabilities"])
    assert made is not None
    made.model.metadata_props.update(about)
    made.save(path, external_data=False)


def read_onnx(path: Path) -> Answer:
    return model.of_onnx(path, torch.get_num_threads()).probabilities


def write_torch_export(graph: ExportedProgram, about: dict[str, str], path: Path) -> None:
    torch.export.save(graph, path, extra_files=about)


def read_torch_export(path: Path) -> Answer:
    return _of_module(torch.export.load(path).module())


def write_aoti(graph: ExportedProgram, about: dict[str, str], path: Path) -> None:
    torch._inductor.aoti_compile_and_package(
        graph, package_path=str(path), inductor_configs={"aot_inductor.metadata": about}
    )


def read_aoti(path: Path) -> Answer:
    return _of_module(torch._inductor.aoti_load_package(str(path)))


def _of_module(module: Callable[[Tensor], Tensor]) -> Answer:
    @torch.inference_mode()
    def answer(image: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(image)).numpy()

    return answer


@dataclass(frozen=True)
class Format:
    name: str  # of the file
    needs: tuple[str, ...]  # packages
    write: Callable[[ExportedProgram, dict[str, str], Path], None]
    read: Callable[[Path], Answer]


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx),
    "torch_export": Format("model.pt2", (), write_torch_export, read_torch_export),
    "aoti": Format("model_aoti.pt2", (), write_aoti, read_aoti),
}


def quantise(source: Path, image: np.ndarray, target: Path) -> None:
    """An ONNX file's weights and activations as 8-bit integers (quantise and dequantise nodes, ranges by min and max).

    Args:
        source: the file.
        image: (N, C, H, W) uint8, from which the ranges of the activations are taken.
        target: what is written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(np.array_split(image, -(-len(image) // 64)))

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    made = onnx.load(source)
    left_out = [node.name for node in made.graph.node if node.op_type in NOT_QUANTISED]
    quantize_static(
        made,
        target,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left_out,
    )
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, {p.key: p.value for p in made.metadata_props})
    onnx.save(quantised, target)
