"""`lab explain`: mistakes and right answers of runs, own images, and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
from conftest import DETECTION, options, takes
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab import train
from lab.data import tiny
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.tasks.classification import Classification
from lab.verbs.explain import base
from lab.verbs.explain import main as explain

QUICK = (
    "experiment=digits",
    "figures=false",
    "data.tiny=true",
    "data.image_size=16",
    "data.augment=null",
    "ema=null",
    "trainer.max_epochs=2",
)
TINY_NETS = {
    "airbench": ["net.widths=[8,8,8]"],
    "cnn": ["net.hidden=8"],
    "fast_cnn": ["net.widths=[4,4,4,4]"],
    "mlp": ["net.widths=[8]"],
    "resnet": ["net.widths=[4,4]"],
    "resnet9": ["net.widths=[4,4,4,4]"],
    "torchvision": ["net.name=squeezenet1_1"],  # its ReLUs write over what they are given
}


def explained(folder, *overrides):
    explain.main(compose_config("explain", [f"run={folder}", "trainer=cpu", *overrides]))
    return json.loads((folder / "explain/report.json").read_text())


@pytest.fixture(scope="module")
def cnn_run(once):
    """A run of two epochs of a small CNN. Copy it before you change it."""

    def make(folder):
        filter_warnings()
        words = [*QUICK, "net.hidden=8", "trainer=cpu", "trainer.enable_progress_bar=false", f"run={folder}"]
        train.main(compose_config("train", words))

    return once("cnn", make)


@pytest.fixture
def cnn(cnn_run, tmp_path):
    return shutil.copytree(cnn_run, tmp_path / "cnn")


def test_mistakes_and_right_answers_of_a_run_are_drawn_and_judged(cnn, capsys):
    folder = cnn
    report = explained(folder, "num_mistakes=4")
    assert set(report["methods"]) == {"integrated_gradients", "gradcam", "occlusion", "random"}
    assert all(np.isfinite(list(scores.values())).all() for scores in report["methods"].values())
    mistakes, right = report["samples"]
    assert all(label != said for label, said in zip(mistakes["label"], mistakes["prediction"], strict=True))
    assert right["label"] == right["prediction"] == sorted(set(right["label"]))
    rows = [line.split(",") for line in (folder / "test_predictions.csv").read_text().splitlines()[1:]]
    wrong = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -float(row[3]))
    assert mistakes["sample"] == [row[0] for row in wrong[:4]]
    events = EventAccumulator(str(folder)).Reload()
    for name in ("mistakes", "right"):
        picture = np.asarray(Image.open(folder / f"explain/{name}.png").convert("RGB"))
        assert picture.std() > 10
        (image,) = events.Images(f"explain/{name}")
        assert (image.height, image.width) == picture.shape[:2]
    said = capsys.readouterr().out
    assert "right.png" in said
    assert "insertion" in said


def test_own_images_are_explained_and_long_folders_cut(cnn):
    folder = cnn
    pictures = tiny.image_folder()
    report = explained(folder, f"input={pictures}", "methods=[occlusion]")
    assert set(report["methods"]) == {"occlusion", "random"}
    (inputs,) = report["samples"]
    assert len(inputs["sample"]) == 20
    assert {path.name for path in (folder / "explain").iterdir()} == {"inputs.png", "report.json"}
    report = explained(folder, f"input={pictures}/a/0.png", "methods=[gradcam]")
    assert report["samples"][0]["sample"] == [f"{pictures}/a/0.png"]


def test_the_same_seed_gives_the_same_report(cnn):
    words = ("methods=[gradcam]", "num_mistakes=1")
    first, again, other = (explained(cnn, *words, f"seed={seed}") for seed in (1, 1, 2))
    assert first == again
    assert first["methods"] != other["methods"]


def test_there_is_a_tiny_one_of_every_net():
    images = {net for net in options("net") if takes(net) == ["image"] and "flip" not in net and net not in DETECTION}
    assert set(TINY_NETS) == images


@pytest.mark.parametrize("net", TINY_NETS)
def test_every_net_is_explained_in_its_own_memory_format(net, trained, capsys):
    size = ["data.image_size=32"] if net == "torchvision" else []
    own = [word.replace("net.", "net.net.", 1) for word in TINY_NETS[net]]
    overrides = ["net=flip", f"net@net.net={net}", *own, *size, "channels_last=true"]
    report = explained(trained(*QUICK[:-1], "debug=two_batches", *overrides), "num_mistakes=1")
    expected = {"integrated_gradients", "occlusion", "random"} | ({"gradcam"} if net != "mlp" else set())
    assert set(report["methods"]) == expected
    assert ("gradcam is skipped" in capsys.readouterr().out) == (net == "mlp")


BAD = {
    "input=nowhere": "input=nowhere: there is no such file or folder",
    "input=123": "input=123: there is no such file or folder",
    "methods=[gradcm]": "methods=.*gradcam",
    "methods=gradcam": "methods=gradcam: should be a valid array",
    "methods=[]": "methods=.*at least 1 item",
    "num_mistakes=21": "num_mistakes=21: .*less than or equal to 20",
    "num_mistakes=x": "num_mistakes=x: .*integer",
    "seed=-1": "seed=-1: .*greater than or equal to 0",
}


@pytest.fixture
def mlp(digits_copy):
    return digits_copy


@pytest.mark.parametrize("override", BAD)
def test_a_mistake_is_said_in_a_line_and_nothing_is_written(override, mlp):
    with pytest.raises(UserError, match=BAD[override]) as error:
        explained(mlp, override)
    assert len(str(error.value).splitlines()) == 1
    assert not (mlp / "explain").exists()


def test_a_net_that_has_none_of_the_methods_asked_for(mlp):
    with pytest.raises(UserError, match="methods=gradcam: .*no convolution"):
        explained(mlp, "methods=[gradcam]")


def test_an_empty_folder_and_a_broken_picture(mlp, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder has no images"):
        explained(mlp, f"input={tmp_path}/empty")
    (tmp_path / "empty/a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a\.png is not a readable image"):
        explained(mlp, f"input={tmp_path}/empty")


def test_a_file_where_the_pictures_should_go(mlp):
    (mlp / "explain").touch()
    with pytest.raises(UserError, match="explain cannot be made: File exists"):
        explained(mlp)
    (mlp / "explain").unlink()


def test_without_captum_the_command_that_installs_it_is_said(mlp, monkeypatch):
    monkeypatch.delitem(sys.modules, "lab.verbs.explain.images", raising=False)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"explain: .*pip install 'lab-template\[explain\]'") as error:
        explained(mlp)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("captum", UserError, r"pip install 'lab-template\[explain\]'"),
        ("captum.attr", UserError, r"pip install 'lab-template\[explain\]'"),
        ("lab.verbs.explain.images", ImportError, "No module"),
        ("scipy", ImportError, "No module"),
        (None, ImportError, "No module"),
    ],
)
def test_only_captum_is_blamed_for_a_missing_captum(name, kind, said, mlp, monkeypatch):
    def missing(_):
        raise ImportError(f"No module named {name}", name=name)

    monkeypatch.setattr(base, "import_module", missing)
    with pytest.raises(kind, match=said):
        explained(mlp)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("outputs", {}, "Only predictions of a classifier can be explained."),
        (
            "outputs",
            {"a": ClassLabel(["x"]), "b": ClassLabel(["y"])},
            "Only predictions of a classifier can be explained.",
        ),
        ("outputs", {"a": Numbers(["x"])}, "Only predictions of a classifier can be explained."),
        (
            "input_entries",
            ["image", "label"],
            "Only predictions from a single input can be explained; this run has 2: image, label.",
        ),
        ("input_entries", ["label"], "There is no explanation method for class inputs yet."),
        ("input_entries", ["index"], "Only predictions from a single input can be explained; this run has 0."),
        (
            "input_entries",
            ["image", "index"],
            "Only predictions from one entry of the batch can be explained; this net takes image, index.",
        ),
        (
            "input_entries",
            ["image", "mask"],
            "Only predictions from one entry of the batch can be explained; this net takes image, mask.",
        ),
    ],
)
def test_what_is_not_explained_is_refused_in_a_sentence(part, value, said, mlp, monkeypatch):
    monkeypatch.setattr(Classification, part, value, raising=False)
    with pytest.raises(UserError) as error:
        explained(mlp)
    assert str(error.value) == f"error: run={mlp}: {said}"
