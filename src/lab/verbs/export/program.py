"""A trained task and its preprocessing as one module, and the file formats into which it is exported."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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

Model = Callable[[Arrays], Arrays]  # the entries of the inputs -> the entries of the outputs

NOT_QUANTISED = ("Cast", "Sub", "Div", "Softmax", "Mul")  # operators before and after the net, and masks


class Exported(nn.Module):
    """The module that is exported: it prepares a batch, and computes the outputs of the task.

    Args:
        task: the trained task.
        data: its `on_after_batch_transfer` prepares a batch.
    """

    def __init__(self, task: Task, data: Data) -> None:
        super().__init__()
        self.task, self.data = task.eval(), data
        undo_compile(task.net)

    def forward(self, entries: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, …) entries of the inputs, such as uint8 images -> (B, …) entries of the outputs."""
        first = next(iter(entries.values()))
        index = torch.zeros(first.shape[:1], dtype=torch.int64, device=first.device)
        outputs = self.task.predict_step(self.data.on_after_batch_transfer({"index": index} | entries), 0)
        return {name: outputs[name] for name in entries_of(self.task.outputs)}


def entries_of(features: Mapping[str, Feature]) -> list[str]:
    """The names of the entries, in the order of the features."""
    return [entry for feature in features.values() for entry in feature.entries]


def example(task: Task, data: Data) -> Arrays:
    """A batch of two samples of the largest size, with `index` for generative tasks, which draw from it."""
    inputs = inputs_of(data.facts.features, task.input_entries) | task.settings
    sample = {name: array for feature in inputs.values() for name, array in feature.example().items()}
    index = {"index": np.arange(2)} if "index" in task.input_entries else {}
    return (stack([sample] * 2) if sample else {}) | index


def program(task: Task, data: Data) -> ExportedProgram:
    """The module as a graph that takes batches of any size."""
    entries, module = (
        {name: torch.from_numpy(array) for name, array in example(task, data).items()},
        Exported(task, data),
    )
    with torch.no_grad():
        module(entries)  # values that are cached at the first call do not become part of the graph
        return torch.export.export(module, (entries,), dynamic_shapes={"entries": free_dims(task, data)})


def free_dims(task: Task, data: Data) -> dict[str, dict[int, Dim]]:
    """The dimensions that may have any size, by entry: the batch, and those of `Feature.free_dims`."""
    batch, free = Dim("batch"), dict[str, dict[int, Dim]]()
    for feature in inputs_of(data.facts.features, task.input_entries).values():
        free |= {name: {dim: Dim(f"{name}_{dim}", min=1) for dim in dims} for name, dims in feature.free_dims.items()}
    return {name: {0: batch} | free.get(name, {}) for name in example(task, data)}


def metadata(task: Task, data: Data) -> dict[str, str]:
    """The inputs and outputs as JSON, which a file needs besides the graph to be used by `lab predict` or others."""
    inputs = inputs_of(data.facts.features, task.input_entries) | task.settings
    return {predictor.METADATA: json.dumps({"inputs": pack(inputs), "outputs": pack(task.outputs)})}


def write_onnx(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    exported = torch.onnx.export(graph, dynamo=True, verbose=False)
    assert exported is not None
    onnx_graph = exported.model.graph
    for node in onnx_graph.all_nodes():  # torch's name of a value may be that of an input or output
        node.metadata_props.clear()  # stack traces, which have paths of this machine
        for value in node.outputs:
            value.name = f"_{value.name}"
    for value, name in zip(onnx_graph.inputs, example(task, data), strict=True):
        value.name = name
    for value, name in zip(onnx_graph.outputs, entries_of(task.outputs), strict=True):
        value.name = name
    exported.model.metadata_props.update(metadata(task, data))
    exported.save(path, external_data=False)


def read_onnx(path: Path) -> Model:
    return predictor.from_onnx(path, torch.get_num_threads()).predict


def write_torch_export(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    torch.export.save(graph, path, extra_files=metadata(task, data))


def read_torch_export(path: Path) -> Model:
    return _of_module(torch.export.load(path).module())


def write_aoti(graph: ExportedProgram, task: Task, data: Data, path: Path) -> None:
    torch._inductor.aoti_compile_and_package(
        graph, package_path=str(path), inductor_configs={"aot_inductor.metadata": metadata(task, data)}
    )


def read_aoti(path: Path) -> Model:
    return _of_module(torch._inductor.aoti_load_package(str(path)))


def _of_module(module: Callable[..., dict[str, Tensor]]) -> Model:
    @torch.inference_mode()
    def model(arrays: Arrays) -> Arrays:
        outputs = module({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: values.numpy() for name, values in outputs.items()}

    return model


@dataclass(frozen=True)
class Format:
    name: str  # the default file name
    needs: tuple[str, ...]  # the packages that it needs
    write: Callable[[ExportedProgram, Task, Data, Path], None]
    read: Callable[[Path], Model]


FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, read_onnx),
    "torch_export": Format("model.pt2", (), write_torch_export, read_torch_export),
    "aoti": Format("model_aoti.pt2", (), write_aoti, read_aoti),
}


def front_end(nodes: Sequence[Any]) -> list[str]:
    """The names of the nodes that compute the logarithm of a spectrogram, from the waveform; empty without one.

    Waveforms and magnitudes span several powers of ten: 8 bits are too few.

    Args:
        nodes: in the order in which they are computed.
    """
    spectra, needed, names = set[str](), set[str](), []
    for node in nodes:
        if node.op_type == "STFT" or spectra & {*node.input}:
            spectra |= {*node.output}
    for node in reversed(nodes):
        if (node.op_type == "Log" and spectra & {*node.input}) or needed & {*node.output}:
            needed |= {*node.input}
            names.append(node.name)
    return names


def quantise(source: Path, arrays: Arrays, target: Path) -> None:
    """Quantise the weights and activations of an ONNX file to 8-bit integers (QDQ nodes; ranges are min and max).

    Args:
        source: the file.
        arrays: (N, …) entries of the inputs; they determine the ranges of the activations.
        target: the file to write.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    names = [entry.name for entry in model.graph.input]

    class Items(CalibrationDataReader):
        def __init__(self) -> None:
            num = len(arrays[names[0]])
            self.batches: Iterator[Any] = iter(range(0, num, 64))

        def get_next(self) -> Any:
            start = next(self.batches, None)
            return None if start is None else {name: arrays[name][start : start + 64] for name in names}

    excluded = [node.name for node in model.graph.node if node.op_type in NOT_QUANTISED]
    excluded += front_end(model.graph.node)
    quantize_static(
        model,
        target,
        Items(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, {p.key: p.value for p in model.metadata_props})
    onnx.save(quantised, target)
