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
from lab.data.base import Data
from lab.inputs.base import pack
from lab.tasks.base import Task

Answer = Callable[[np.ndarray], np.ndarray]  # (B, …) items -> (B, num_classes) probabilities, or (B, …) outputs

NOT_QUANTISED = ("Cast", "Sub", "Div", "Softmax")  # what stands before and behind the net


class Exported(nn.Module):
    """All that stands between an item and the answer.

    Args:
        task: in eval mode; it may answer with the mean over an image and its mirror image.
        data: which prepares a batch, as for the task.
    """

    def __init__(self, task: Task, data: Data) -> None:
        super().__init__()
        self.task, self.data = task.eval(), data
        task.net._compiled_call_impl = None  # of `compile: true`; it is the net itself that is exported

    def forward(self, item: Tensor) -> Tensor:
        """(B, …) items, such as uint8 images -> (B, num_classes) probabilities, or (B, …) what the task puts out."""
        batch = self.data.on_after_batch_transfer({self.data.inputs.entry: item})
        return self.task.predict_step(batch, 0)


def program(task: Task, data: Data) -> ExportedProgram:
    """The module as a graph, for batches of any size."""
    item, module = torch.from_numpy(data.inputs.example), Exported(task, data)
    with torch.no_grad():
        module(item)  # what is computed once is computed now, not in the graph
        return torch.export.export(module, (item,), dynamic_shapes={"item": {0: Dim("batch")}})


def metadata(task: Task, data: Data) -> dict[str, str]:
    """What a file has to hold beside the graph, for `lab predict model=FILE` or anybody else to use it."""
    said = {"outputs": pack(task.outputs)} if task.outputs else {"class_names": data.facts.class_names}
    return {model.METADATA: json.dumps({"inputs": pack(data.inputs)} | said)}


def write_onnx(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    answer = task.outputs.entry if task.outputs else "probabilities"
    made = torch.onnx.export(graph, dynamo=True, verbose=False, input_names=[data.inputs.entry], output_names=[answer])
    assert made is not None
    made.model.metadata_props.update(metadata(task, data))
    made.save(path, external_data=False)


def read_onnx(path: Path) -> Answer:
    return model.of_onnx(path, torch.get_num_threads()).answer


def write_torch_export(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    torch.export.save(graph, path, extra_files=metadata(task, data))


def read_torch_export(path: Path) -> Answer:
    return _of_module(torch.export.load(path).module())


def write_aoti(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    torch._inductor.aoti_compile_and_package(
        graph, package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata(task, data)}
    )


def read_aoti(path: Path) -> Answer:
    return _of_module(torch._inductor.aoti_load_package(str(path)))


def _of_module(module: Callable[[Tensor], Tensor]) -> Answer:
    @torch.inference_mode()
    def answer(items: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(items)).numpy()

    return answer


@dataclass(frozen=True)
class Format:
    name: str  # of the file
    needs: tuple[str, ...]  # packages
    write: Callable[[ExportedProgram, Task, Data, Path], None]
    read: Callable[[Path], Answer]


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx),
    "torch_export": Format("model.pt2", (), write_torch_export, read_torch_export),
    "aoti": Format("model_aoti.pt2", (), write_aoti, read_aoti),
}


def quantise(source: Path, items: np.ndarray, target: Path) -> None:
    """An ONNX file's weights and activations as 8-bit integers (quantise and dequantise nodes, ranges by min and max).

    Args:
        source: the file.
        items: (N, …), from which the ranges of the activations are taken.
        target: what is written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    made = onnx.load(source)
    entry = made.graph.input[0].name

    class Items(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(np.array_split(items, -(-len(items) // 64)))

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {entry: batch}

    left_out = [node.name for node in made.graph.node if node.op_type in NOT_QUANTISED]
    quantize_static(
        made,
        target,
        Items(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left_out,
    )
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, {p.key: p.value for p in made.metadata_props})
    onnx.save(quantised, target)
