"""Exported programs: random numbers, several inputs and outputs, and a proof that fails."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up_outputs import IMAGE, MEAN, SHADE, SIZE
from torch import nn

from lab.engine import draws
from lab.engine.errors import RunError
from lab.features.labels import ClassLabel
from lab.verbs import predictor
from lab.verbs.export import comparison
from lab.verbs.export import program as exported
from lab.verbs.predictor import Predictor

KINDS = {"uniform": (draws.uniform, 0.5, 1 / 12), "normal": (draws.normal, 0.0, 1.0)}


def test_a_module_that_draws_can_be_exported():
    class Drawing(torch.nn.Module):
        def forward(self, index):
            return [draw("0 predict", index, *shape) for draw, *_ in KINDS.values() for shape in ((), (2, 3))]

    shapes = {"index": {0: torch.export.Dim("batch")}}
    graph = torch.export.export(Drawing(), (torch.arange(5),), dynamic_shapes=shapes).module()
    index = torch.tensor([3, 10**12, 0, 8, 1, 4, 77])
    assert all(a.equal(b) for a, b in zip(graph(index), Drawing()(index), strict=True))


class Net(nn.Module):
    def forward(self, image, size):
        return image.mean((1, 2, 3)) + size.sum(1)


class Both:
    """A task of two inputs and two outputs, which draws."""

    input_entries = ("image", "size", "index")
    outputs = {"shade": SHADE, "mean": MEAN}  # noqa: RUF012
    settings = {}  # noqa: RUF012

    def __init__(self):
        self.net = Net()

    def eval(self):
        return self

    def predict_step(self, batch, batch_idx):
        level = self.net(batch["image"], batch["size"]) + batch["index"].float() / 100
        return {"mean": level[:, None], "shade": torch.stack([-level, level], 1).softmax(-1), "more": level}


def data_of(**features):
    image = torch.arange(40 * 4, dtype=torch.uint8).view(40, 1, 2, 2)
    batch = {"image": image, "size": torch.rand(40, 2), "label": (image.float().mean((1, 2, 3)) > 99).long()}

    class Split:
        def __len__(self):
            return 40

        def __getitems__(self, index):
            return {name: values[index] for name, values in batch.items()} | {"index": torch.tensor(index)}

    def prepared(batch):
        return batch | {"image": batch["image"].float() / 255}

    facts = SimpleNamespace(features=features)
    return SimpleNamespace(facts=facts, on_after_batch_transfer=prepared, splits={"test": Split(), "train": Split()})


def rightly(task, data):
    """The answers of a task's checkpoint."""

    def right(arrays):
        batch = data.on_after_batch_transfer({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: task.predict_step(batch, 0)[name].numpy() for name in ("shade", "mean")}

    return right


def test_an_exported_file_has_named_inputs_and_outputs(tmp_path):
    data, task = data_of(image=IMAGE, size=SIZE, label=ClassLabel(["dark", "light"])), Both()
    path = tmp_path / "model.onnx"
    exported.write_onnx(exported.program(task, data), task, data, path)
    asked = predictor.from_onnx(path)
    assert (asked.inputs, asked.outputs) == ({"image": IMAGE, "size": SIZE}, task.outputs)

    right = rightly(task, data)
    checkpoint, size = Predictor(asked.inputs, asked.outputs, right), exported.example(task, data)
    made = comparison.prove(path, "onnx", checkpoint, size, data)
    assert made["tolerance"] == {"shade": 0, "mean": 0}
    assert (made["same_answer"], made["num_samples"]) == (40, 40)
    assert made["test_shade_acc"]["exported"] == made["test_shade_acc"]["checkpoint"] == 15 / 40, "all are light"
    some = comparison.prove(path, "onnx", Predictor(asked.inputs, asked.outputs, right, most_compared=15), size, data)
    assert some["num_samples"] == 15
    arrays = {name: array[:1] for name, array in size.items()} | {"index": np.array([50])}
    assert asked.predict(arrays)["mean"][0, 0] == pytest.approx(right(arrays)["mean"][0, 0])

    def other(arrays):
        return right(arrays) | {"mean": right(arrays)["mean"] + (arrays["index"][:, None] > 37)}

    with pytest.raises(RunError, match=r"of the predictions \(mean\) differ \(at most 0% may\), by up to 1"):
        comparison.prove(path, "onnx", Predictor(asked.inputs, asked.outputs, other), size, data)


def test_an_export_of_a_task_that_draws_and_does_not_say_so_is_refused(tmp_path):
    class Secret(Both):
        input_entries = ("image", "size")

    data, task, path = data_of(image=IMAGE, size=SIZE), Secret(), tmp_path / "model.pt2"
    checkpoint = Predictor({"image": IMAGE, "size": SIZE}, task.outputs, rightly(task, data))
    exported.write_torch_export(exported.program(task, data), task, data, path)
    with pytest.raises(RunError, match="is refused: its predictions differ from those of the checkpoint"):
        comparison.prove(path, "torch_export", checkpoint, exported.example(task, data), data)
