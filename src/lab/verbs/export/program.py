"""A trained task and its preprocessing as one module, and the files that this becomes."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lab.data.base import Data
from lab.data.facts import inputs_of
from lab.engine.training.lightning_quirks import undo_compile
from lab.features.base import Arrays, Feature, pack, stack
from lab.tasks.base import Task
from lab.verbs import predictor

Answer = Callable[[Arrays], Arrays]  # the inputs' entries -> the outputs'

NOT_QUANTISED = ("Cast", "Sub", "Div", "Softmax")  # what stands before and behind the net


class Exported(nn.Module):
    """All that stands between the entries of the inputs and those of the outputs.

    Args:
        task: in eval mode.
        data: which prepares a batch, as for the task.
    """

    def __init__(self, task: Task, data: Data) -> None:
        super().__init__()
        self.task, self.data = task.eval(), data
        undo_compile(task.net)

    def forward(self, entries: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, …) entries of the inputs, such as uint8 images -> (B, …) entries of the outputs."""
        first = next(iter(entries.values()))
        index = torch.zeros(first.shape[:1], dtype=torch.int64, device=first.device)
        made = self.task.predict_step(self.data.on_after_batch_transfer({"index": index} | entries), 0)
        return {name: made[name] for name in entries_of(self.task.outputs)}


def entries_of(features: Mapping[str, Feature]) -> list[str]:
    """In the order of the features."""
    return [entry for feature in features.values() for entry in feature.entries]


def example(task: Task, data: Data) -> Arrays:
    """Two samples of the largest size; with `index` where what is drawn depends on it."""
    inputs = inputs_of(data.facts.features, task.input_entries)
    sample = {name: array for feature in inputs.values() for name, array in feature.example().items()}
    drawn = {"index": np.arange(2)} if "index" in task.input_entries else {}
    return (stack([sample] * 2) if sample else {}) | drawn


def program(task: Task, data: Data) -> ExportedProgram:
    """The module as a graph, for batches of any size."""
    entries, module = (
        {name: torch.from_numpy(array) for name, array in example(task, data).items()},
        Exported(task, data),
    )
    batch = Dim("batch")
    with torch.no_grad():
        module(entries)  # what is computed once is computed now, not in the graph
        sizes = {"entries": {name: {0: batch} for name in entries}}
        return torch.export.export(module, (entries,), dynamic_shapes=sizes)


def metadata(task: Task, data: Data) -> dict[str, str]:
    """What a file has to hold beside the graph, for `lab predict model=FILE` or anybody else to use it."""
    inputs = inputs_of(data.facts.features, task.input_entries)
    return {predictor.METADATA: json.dumps({"inputs": pack(inputs), "outputs": pack(task.outputs)})}


def write_onnx(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    made = torch.onnx.export(graph, dynamo=True, verbose=False)
    assert made is not None
    inside = made.model.graph
    for node in inside.all_nodes():  # torch has named them, perhaps as an input or output is to be named
        for value in node.outputs:
            value.name = f"_{value.name}"
    for value, name in zip(inside.inputs, example(task, data), strict=True):
        value.name = name
    for value, name in zip(inside.outputs, entries_of(task.outputs), strict=True):
        value.name = name
    made.model.metadata_props.update(metadata(task, data))
    made.save(path, external_data=False)


def read_onnx(path: Path) -> Answer:
    return predictor.from_onnx(path, torch.get_num_threads()).predict


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


def _of_module(module: Callable[..., dict[str, Tensor]]) -> Answer:
    @torch.inference_mode()
    def answer(arrays: Arrays) -> Arrays:
        made = module({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: values.numpy() for name, values in made.items()}

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


def quantise(source: Path, arrays: Arrays, target: Path) -> None:
    """An ONNX file's weights and activations as 8-bit integers (quantise and dequantise nodes, ranges by min and max).

    Args:
        source: the file.
        arrays: (N, …) entries of the inputs, from which the ranges of the activations are taken.
        target: what is written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    made = onnx.load(source)
    names = [entry.name for entry in made.graph.input]

    class Items(CalibrationDataReader):
        def __init__(self) -> None:
            num = len(arrays[names[0]])
            self.batches: Iterator[Any] = iter(range(0, num, 64))

        def get_next(self) -> Any:
            start = next(self.batches, None)
            return None if start is None else {name: arrays[name][start : start + 64] for name in names}

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
