"""Attributions that are known in closed form, checks that a useless method fails, and pictures that are there."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import options, takes
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lab.data import tiny
from lab.engine.config.compose import compose_config as compose_verb
from lab.engine.errors import UserError
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.nets import flip
from lab.tasks.classification import Classification
from lab.verbs.explain import base, images, scores
from lab.verbs.explain import main as explain
from lab.verbs.explain.overlay import Example, figure, overlay

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


@pytest.fixture
def image():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def linear():
    """Logits w·x + b: the attribution of a pixel is w·x, summed over the channels."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 5)).eval()


TARGET = torch.tensor([3, 0, 4])


def of_linear(linear, image):
    return (linear[1].weight[TARGET].view_as(image) * image).sum(1).detach()


def test_integrated_gradients_of_a_linear_net_are_weight_times_input(linear, image):
    found = images.integrated_gradients(linear, image, TARGET)
    torch.testing.assert_close(found, of_linear(linear, image), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_sum_to_what_the_image_changes(image):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 5))
    change = (net(image) - net(torch.zeros_like(image))).gather(1, TARGET[:, None])[:, 0]
    found = images.integrated_gradients(net, image, TARGET).sum((1, 2))
    torch.testing.assert_close(found, change, rtol=1e-3, atol=1e-4)


def test_occlusion_of_a_linear_net_is_weight_times_input_of_the_window(linear, image):
    """Eight pixels have a window of one; sixteen have one of two, which moves by one."""
    torch.testing.assert_close(images.occlusion(linear, image, TARGET), of_linear(linear, image))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 5))
    large = torch.randn(1, 1, 16, 16)
    pixel = (wide[1].weight[2].view(16, 16) * large[0, 0]).detach()
    windows = nn.functional.avg_pool2d(pixel[None], 2, 1)[0] * 4
    found = images.occlusion(wide, large, torch.tensor([2]))
    assert found[0, 0, 0].item() == pytest.approx(windows[0, 0].item(), abs=1e-5)
    assert found[0, 5, 7].item() == pytest.approx(windows[4:6, 6:8].mean().item(), abs=1e-5)


def test_gradcam_is_the_feature_map_weighted_by_mean_gradients():
    """Channel 0 copies the image, channel 1 negates it; pooled, their weights for class 1 are 2 and -3."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    net[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    net[4].weight.data = torch.tensor([[0.0, 0.0], [2.0, -3.0]])
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (2 * image.relu() - 3 * (-image).relu()).relu()[:, 0] / 64
    torch.testing.assert_close(images.gradcam(net, image, torch.tensor([1, 1])), expected)
    assert images.feature_map(net, image) is net[1], "after the activation"


def test_gradcam_says_that_there_is_no_feature_map(linear, image):
    with pytest.raises(ValueError, match="no convolution"):
        images.gradcam(linear, image, TARGET)


def test_a_method_that_ignores_the_weights_fails_the_sanity_check_and_one_that_does_not_passes(linear, image):
    def edges(net, image, target):
        return image.diff(dim=-1, prepend=image[..., :1]).sum(1)

    samples = list(zip(image.split(1), TARGET.split(1), strict=True))
    own = scores.attribute(edges, linear, samples)
    assert scores.sanity(edges, linear, samples, own, seed=0) == {
        "signed": pytest.approx(1),
        "absolute": pytest.approx(1),
    }
    method = images.integrated_gradients
    own = scores.attribute(method, linear, samples)
    assert abs(scores.sanity(method, linear, samples, own, seed=0)["signed"]) < 0.3


def test_warnings_name_the_methods_that_are_not_to_be_trusted():
    good = {"signed": 0.1, "absolute": 0.3, "deletion": 0.2, "insertion": 0.8}
    methods = {"good": good, "edges": good | {"absolute": 0.9}, "noise": good | {"deletion": 0.6, "insertion": 0.4}}
    said = explain.score_table({"methods": methods | {"random": {"deletion": 0.5, "insertion": 0.5}}})
    assert [line.split()[1] for line in said.splitlines() if line.startswith("warning")] == ["edges", "noise"]


def test_shuffled_weights_are_the_same_numbers_elsewhere(linear):
    before = linear[1].weight.clone()
    other = scores.shuffled(linear, torch.Generator().manual_seed(0))[1].weight
    assert linear[1].weight.equal(before)
    assert not other.equal(before)
    assert other.flatten().sort().values.equal(before.flatten().sort().values)


def test_deletion_and_insertion_by_hand(linear, image):
    """A score that counts two pixels, worth 3 and 1, of a picture of 4: each step takes a fifth of a pixel."""
    score = lambda x: torch.stack([3 * x[:, 0, 0, 0] + x[:, 0, 1, 1]], 1)  # noqa: E731
    picture, values = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 1.0], [2.0, 3.0]]])
    deletion, insertion = scores.deletion_insertion(score, (picture, torch.tensor([0])), values, 0)
    # of 20 steps the first alone scores 4, the next five 1, the others 0
    assert deletion == pytest.approx((4 / 2 + 5 * 1) / 20)
    assert insertion == pytest.approx((0 / 2 + 5 * 3 + 13 * 4 + 4 + 4 / 2) / 20)


def test_the_right_ranking_beats_a_random_and_a_reversed_one(linear, image):
    right = of_linear(linear, image)
    for i in range(3):
        sample, rankings = (image[[i]], TARGET[[i]]), (right[[i]], torch.rand(1, 8, 8), -right[[i]])
        deletion, insertion = zip(*(scores.deletion_insertion(linear, sample, v, 0) for v in rankings), strict=True)
        assert deletion[0] < deletion[1] < deletion[2]
        assert insertion[0] > insertion[1] > insertion[2]


def test_a_mirrored_answer_is_explained_by_both_of_its_halves(linear, image):
    class Plain(nn.Module):
        def forward(self, image):
            return linear(image)

    plain, both = Plain(), flip.TestTimeFlip(Plain()).eval()
    for method in (images.METHODS["integrated_gradients"], images.METHODS["occlusion"]):
        sides = [method(plain, side, TARGET) for side in (image, image.flip(-1))]
        assert method(both, image, TARGET).equal((sides[0] + sides[1].flip(-1)) / 2)
    whole = images.integrated_gradients(both, image, TARGET)
    torch.testing.assert_close(images.METHODS["integrated_gradients"](both, image, TARGET), whole, rtol=1e-4, atol=1e-5)


def test_an_overlay_is_red_for_blue_against_and_grey_where_nothing_is():
    values = torch.zeros(20, 20)
    values[0, :10], values[1, :10] = 2.0, -2.0
    drawn = overlay(torch.full((3, 20, 20), 255, dtype=torch.uint8), values)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] + 0.4
    assert drawn[1, 0, 2] > drawn[1, 0, 0] + 0.4
    assert np.allclose(drawn[5], 1)


@pytest.mark.parametrize("num", [1, 20])
def test_nothing_is_drawn_over_anything_else_or_cut_off(num):
    rows = [
        Example(torch.zeros(1, 8, 8), [torch.zeros(8, 8)] * 3, "a class of $many$ words", "100.0 %\nbut is another one")
    ]
    title = f"The {num} surest of 123 mistakes in 10000 im{'a' * 99}ges"
    drawn = figure(title, ["a\nb", "c", "d"], rows * num)
    drawn.draw_without_rendering()
    boxes = [part.get_window_extent().padded(-1) for part in (*drawn.texts, *drawn.axes)]
    assert all(drawn.bbox.containsx(x) and drawn.bbox.containsy(y) for box in boxes for x, y in box.corners())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def explained(folder, *overrides):
    explain.main(compose_verb("explain", [f"run={folder}", "trainer=cpu", *overrides]))
    return json.loads((folder / "explain/report.json").read_text())


def test_mistakes_and_right_answers_of_a_run_are_drawn_and_judged(trained, capsys):
    folder = trained(*QUICK)
    report = explained(folder)
    assert set(report["methods"]) == {"integrated_gradients", "gradcam", "occlusion", "random"}
    assert all(np.isfinite(list(scores.values())).all() for scores in report["methods"].values())
    mistakes, right = report["samples"]
    assert all(label != said for label, said in zip(mistakes["label"], mistakes["prediction"], strict=True))
    assert right["label"] == right["prediction"] == sorted(set(right["label"]))
    rows = [line.split(",") for line in (folder / "test_predictions.csv").read_text().splitlines()[1:]]
    wrong = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -float(row[3]))
    assert mistakes["sample"] == [row[0] for row in wrong[:10]]
    events = EventAccumulator(str(folder)).Reload()
    for name in ("mistakes", "right"):
        picture = np.asarray(Image.open(folder / f"explain/{name}.png").convert("RGB"))
        assert picture.std() > 10
        (image,) = events.Images(f"explain/{name}")
        assert (image.height, image.width) == picture.shape[:2]
    said = capsys.readouterr().out
    assert "right.png" in said
    assert "insertion" in said


def test_own_images_are_explained_and_long_folders_cut(trained, tmp_path, capsys):
    folder = trained(*QUICK)
    pictures = tiny.image_folder()
    report = explained(folder, f"input={pictures}", "methods=[occlusion]")
    assert set(report["methods"]) == {"occlusion", "random"}
    (inputs,) = report["samples"]
    assert len(inputs["sample"]) == 20
    assert {path.name for path in (folder / "explain").iterdir()} == {"inputs.png", "report.json"}
    report = explained(folder, f"input={pictures}/a/0.png", "methods=[gradcam]")
    assert report["samples"][0]["sample"] == [f"{pictures}/a/0.png"]


def test_the_same_seed_gives_the_same_report(trained):
    folder = trained(*QUICK)
    first, again, other = (explained(folder, "methods=[gradcam]", f"seed={seed}") for seed in (1, 1, 2))
    assert first == again
    assert first["methods"] != other["methods"]


def test_there_is_a_tiny_one_of_every_net():
    images = {net for net in options("net") if takes(net) == ["image"] and "flip" not in net}
    assert set(TINY_NETS) == images


@pytest.mark.parametrize("net", TINY_NETS)
def test_every_net_is_explained_in_its_own_memory_format(net, trained, capsys):
    size = ["data.image_size=32"] if net == "torchvision" else []
    own = [word.replace("net.", "net.net.", 1) for word in TINY_NETS[net]]
    overrides = ["net=flip", f"net@net.net={net}", *own, *size, "channels_last=true"]
    report = explained(trained(*QUICK[:-1], "debug=two_batches", *overrides), "num_mistakes=2")
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


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """A run that is only looked at."""
    from lab import train
    from lab.engine.config.compose import compose_config
    from lab.engine.training.lightning_quirks import filter_warnings

    filter_warnings()
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [*QUICK[:-1], "net=mlp", "debug=two_batches", "trainer=cpu", f"run={folder}"]
    train.main(compose_config("train", [*words, "trainer.enable_progress_bar=false"]))
    return folder


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
