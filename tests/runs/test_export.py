"""A file answers as the checkpoint does, or there is no file."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PLAIN, options, takes

from lab import runs
from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.features.base import unpack
from lab.features.labels import ClassLabel
from lab.verbs import predictor
from lab.verbs.export import main as export
from lab.verbs.export import program as exported

SMALL = {
    "mlp": ["net.widths=[8]", "net.batch_norm=true"],
    "cnn": ["net.hidden=8"],
    "resnet": ["net.widths=[4,8]"],
    "resnet9": ["net.widths=[4,4,8,8]"],
    "flip": ["net.net.widths=[4,4,8,8]"],
    "airbench": ["net.widths=[8,8,8]"],
    "torchvision": ["net.name=squeezenet1_1"],
}


def test_there_is_a_small_one_of_every_net():
    nets = {net for net in options("net") if takes(net) == ["image"]}
    detectors = {"detector", "torchvision_detection"}  # test_detection.py exports one
    assert nets - detectors - {"fast_cnn", "airbench_flip", "resnet9_flip"} == set(SMALL)  # fast_cnn is in flip


@pytest.fixture
def folder(digits_copy):
    return digits_copy


def exports(folder, *overrides):
    export.main(compose_config("export", [f"run={folder}", *overrides]))
    return json.loads((folder / "export.json").read_text())


def inventory(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("net", SMALL)
def test_every_net_is_exported_and_answers_as_its_checkpoint(net, trained, capsys):
    size = 32 if net == "torchvision" else 12
    folder = trained(*PLAIN, f"net={net}", *SMALL[net], "debug=two_batches", f"data.image_size={size}")
    exports(folder, "format=torch_export")
    reports = exports(folder)
    assert list(reports) == ["model.pt2", "model.onnx"], "each file has its report"
    for name, report in reports.items():
        assert max(report["max_difference"].values()) <= 1e-4
        assert report["tolerance"] == {"class": 0}
        assert {share for each in report["differing"].values() for share in each.values()} == {0}
        assert set(report["max_difference"]) == {*(f"batches of {n}" for n in (1, 2, 7, 64)), "test split"}
        assert report["same_answer"] == report["num_samples"] == 40
        assert report["test_acc"]["exported"] == report["test_acc"]["checkpoint"]
        assert report["bytes"] == (folder / name).stat().st_size
        assert all(times["exported"] > 0 and times["eager"] > 0 for times in report["milliseconds"].values())
    assert "model.onnx" in capsys.readouterr().out


def test_the_file_holds_what_it_takes_to_use_it(folder):
    exports(folder, "format=torch_export")
    asked, (_, data, task) = predictor.from_onnx(folder / "model.onnx"), runs.load(folder)
    assert asked.outputs == task.outputs == {"class": ClassLabel(list(map(str, range(10))), entry="class")}
    assert asked.inputs == {"image": data.facts.features["image"]}
    feature = asked.inputs["image"]
    image = np.random.default_rng(0).integers(0, 256, (3, 1, feature.image_size, feature.image_size), np.uint8)
    normal = (torch.from_numpy(image) / 255 - feature.mean[0]) / feature.std[0]
    right = task({"image": normal}).softmax(-1).detach().numpy()
    assert asked.predict({"image": image})["class"] == pytest.approx(right, abs=1e-5)
    inside = {predictor.METADATA: ""}
    program = torch.export.load(folder / "model.pt2", extra_files=inside)
    about = json.loads(inside[predictor.METADATA])
    assert (unpack(about["inputs"]), unpack(about["outputs"])) == (asked.inputs, asked.outputs)
    answer = program.module()({"image": torch.from_numpy(image)})["class"]
    assert answer.detach().numpy() == pytest.approx(right, abs=1e-5)


def unnormalised(monkeypatch):
    def forward(module, entries):
        return {"class": module.task({"image": entries["image"].float() / 255}).softmax(-1)}

    monkeypatch.setattr(exported.Exported, "forward", forward)


def logits(monkeypatch):
    def forward(module, entries):
        return {"class": module.task(module.data.on_after_batch_transfer(entries))}

    monkeypatch.setattr(exported.Exported, "forward", forward)


def changed(value):
    """One weight of the written file is another."""

    def broken(monkeypatch):
        import onnx

        def write(graph, task, data, path):
            exported.write_onnx(graph, task, data, path)
            made = onnx.load(path)
            weight = next(each for each in made.graph.initializer if "weight" in each.name)
            numbers = onnx.numpy_helper.to_array(weight).copy()
            numbers.flat[numbers.size // 2] += value
            weight.CopyFrom(onnx.numpy_helper.from_array(numbers, weight.name))
            onnx.save(made, path)

        monkeypatch.setitem(exported.FORMATS, "onnx", replace(exported.FORMATS["onnx"], write=write))

    return broken


def fixed_batch(monkeypatch):
    def program(task, data):
        entries = {name: torch.from_numpy(array) for name, array in exported.example(task, data).items()}
        return torch.export.export(exported.Exported(task, data), (entries,))

    monkeypatch.setattr(exported, "program", program)


@pytest.mark.parametrize(
    ("broken", "name", "said"),
    [
        (unnormalised, "model.onnx", "is refused: its predictions differ from those of the checkpoint"),
        (logits, "new.onnx", "is refused: its predictions differ from those of the checkpoint"),
        (changed(2.0), "model.onnx", "is refused: its predictions differ from those of the checkpoint"),
        (changed(np.nan), "model.onnx", "is refused: .* differ .*by up to nan"),
        (fixed_batch, "new.onnx", "is refused: it cannot be run"),
    ],
    ids=["normalisation", "softmax", "weight", "nan", "batch size"],
)
def test_a_broken_export_is_refused_and_what_was_there_stays(broken, name, said, folder, monkeypatch):
    before = inventory(folder)
    broken(monkeypatch)
    with pytest.raises(RunError, match=f"{name} {said}"):
        exports(folder, f"output={folder}/{name}")
    assert inventory(folder) == before


def test_of_a_compiled_net_the_net_itself_is_exported(folder):
    _, data, task = runs.load(folder)
    image = torch.randint(
        0,
        256,
        (5, 1, data.facts.features["image"].image_size, data.facts.features["image"].image_size),
        dtype=torch.uint8,
    )
    right = exported.program(task, data).module()({"image": image})["class"]
    task.net.compile(backend=lambda graph, inputs: pytest.fail("it was compiled"))
    assert exported.program(task, data).module()({"image": image})["class"].equal(right)


def test_int8_is_smaller_and_its_accuracy_is_measured(trained):
    folder = trained(*PLAIN, "net=cnn", "trainer.max_epochs=3")
    reports = exports(folder, "int8=true")
    small, large = reports["model_int8.onnx"], reports["model.onnx"]
    assert (folder / "model_int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size / 3
    assert small["test_acc"]["checkpoint"] == large["test_acc"]["exported"]
    assert small["test_acc"]["exported"] >= large["test_acc"]["exported"] - 0.1
    assert 1e-4 < small["max_difference"]["test split"] < 0.2, "it is quantised, and not broken"
    assert "tolerance" not in small, "it is measured, not proven"
    assert predictor.from_onnx(folder / "model_int8.onnx").outputs["class"].class_names == list(map(str, range(10)))


@pytest.mark.skipif(not shutil.which("g++"), reason="AOTInductor compiles C++")
def test_machine_code_answers_as_the_checkpoint_and_says_its_classes(folder):
    report = exports(folder, "format=aoti")["model_aoti.pt2"]
    assert max(report["max_difference"].values()) <= 1e-4
    about = torch._inductor.aoti_load_package(str(folder / "model_aoti.pt2")).get_metadata()
    outputs = unpack(json.loads(about[predictor.METADATA])["outputs"])
    assert outputs["class"].class_names == list(map(str, range(10)))


def test_what_an_export_takes_is_said_in_a_line(folder, monkeypatch):
    before = inventory(folder)
    with monkeypatch.context() as absent:
        absent.setattr(export, "find_spec", lambda name: None)
        needs = r"this needs onnx, onnxscript, onnxruntime: pip install 'lab-template\[export\]'"
        with pytest.raises(UserError, match=needs):
            exports(folder)

    def forward(net, image):
        return net.layers(image) if image.sum() > 0 else net.layers(-image)

    monkeypatch.setattr("lab.nets.mlp.MLP.forward", forward)
    with pytest.raises(RunError, match="model.onnx could not be made ") as error:
        exports(folder)
    assert len(str(error.value).splitlines()) == 1
    assert inventory(folder) == before
