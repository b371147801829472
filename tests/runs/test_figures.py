"""The figures of a run, as files and in TensorBoard."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tables import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.figures import classification as figures

FIGURES = {"confusion", "reliability", "curves", "mistakes", "least_sure"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that averages its weights, whose best epoch is not its last."""
    from lab import train
    from lab.engine.config.compose import compose_config

    logs = tmp_path_factory.mktemp("logs")
    words = ["experiment=digits", "data.tiny=true", "net=mlp", "trainer.max_epochs=12", "trainer=cpu", "ema=0.5"]
    words += ["scheduler=constant", "optimizer.lr=0.03", "monitor={metric: val/acc, mode: max}", f"log_dir={logs}"]
    train.main(compose_config("train", [*words, "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=5"]))
    (folder,) = (logs / "digits").iterdir()
    return folder


def test_every_figure_is_a_picture_in_the_folder_and_in_tensorboard(run):
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    expected = {"train/samples"} | {f"{stage}/{name}" for stage in ("val", "test") for name in FIGURES}
    assert set(events.Tags()["images"]) == expected
    for name in expected:
        picture = np.asarray(Image.open(run / f"figures/{name.replace('/', '_')}.png"))
        assert picture.std() > 5, f"{name} is blank"
        shown = events.Images(name)[-1]
        assert (shown.height, shown.width) == picture.shape[:2]
    texts = {name for name in events.Tags()["tensors"] if name.endswith("/text_summary")}
    wanted = {"config.yaml", "stamp.json", "val/classes", "test/classes"}
    assert texts == {f"{name}/text_summary" for name in wanted}
    assert "experiment=digits" in events.Tensors("stamp.json/text_summary")[0].tensor_proto.string_val[0].decode()


def test_scalars_say_how_fast_how_large_and_how_steep(run):
    events = EventAccumulator(str(run)).Reload()
    for name in ("samples_per_second", "peak_memory_MiB", "gradient_norm", "lr-Adam"):
        values = [event.value for event in events.Scalars(name)]
        assert values
        assert min(values) > 0
    assert len(events.Scalars("samples_per_second")) == 12
    assert "samples_per_second" not in (run / "metrics.csv").read_text(), "it is never twice the same"


def test_the_validation_figures_are_of_the_best_weights(run):
    results = json.loads((run / "results.json").read_text())
    assert results["best"]["metrics"]["val/acc"] == results["best"]["value"]
    assert results["last"]["val/acc"] < results["best"]["value"], "the test is of no use: the last epoch is the best"
    rows = read_rows(run / "metrics.csv")
    assert len([row for row in rows if row["val/acc"]]) == 12, "the curve shows the best epoch twice"


def test_each_test_sample_has_its_row(run):
    from lab import runs

    _, data, task = runs.load(run)
    data.setup("test")
    rows = read_rows(run / "test_predictions.csv")
    assert [row["sample"] for row in rows] == list(data.names["test"])
    batch = data.on_after_batch_transfer(data.splits["test"].__getitems__(range(len(rows))))
    for row, label, probability in zip(rows, batch["label"], task.predict_step(batch, 0)["class"], strict=True):
        assert row["label"] == data.facts.features["label"].class_names[label]
        assert row["prediction"] == data.facts.features["label"].class_names[probability.argmax()]
        assert float(row["probability"]) == pytest.approx(probability.max().item(), abs=1e-4)


def test_the_projector_has_what_the_last_layer_is_given(run):
    (folder,) = run.glob("*/test")
    embedding = np.loadtxt(folder / "tensors.tsv")
    predictions = read_rows(run / "test_predictions.csv")
    assert embedding.shape == (len(predictions), 128)
    assert (folder / "metadata.tsv").read_text().split() == [row["label"] for row in predictions]
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.width > 32


def test_without_figures_there_are_none(trained):
    folder = trained("experiment=digits", "data.tiny=true", "net=mlp", "trainer.max_epochs=1", "figures=false")
    assert not (folder / "figures").exists()
    assert (folder / "test_predictions.csv").exists()
    assert not EventAccumulator(str(folder)).Reload().Tags()["images"]


def test_the_calibration_error_is_that_of_its_definition():
    """Two bins: 0.9 sure and right in half of 4, 0.6 sure and right in 1 of 1: (4 · 0.4 + 1 · 0.4) / 5."""
    probability = torch.tensor([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    figure = figures.reliability(probability, torch.tensor([0, 0, 1, 1, 0]))
    assert "0.400" in figure.get_suptitle()


def test_a_class_without_samples_and_one_that_is_never_predicted_are_shown():
    label, prediction = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2])
    table = figures.classes(label, prediction, ["a", "b", "c"]).splitlines()[2:]
    assert table == [
        "| b | 0.000 | 0.000 | 0.000 | 1 |",
        "| c | 0.000 | 0.000 | 0.000 | 0 |",
        "| a | 1.000 | 0.500 | 0.667 | 2 |",
    ]
    assert "33.3% right" in figures.confusion(label, prediction, ["a", "b", "c"]).get_suptitle()


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_figures_are_legible_for_few_classes_and_for_many(num_classes):
    torch.manual_seed(0)
    label = torch.arange(10 * num_classes) % num_classes
    logits = torch.randn(len(label), num_classes) + 2 * torch.nn.functional.one_hot(label, num_classes)
    names = [f"cla$$ {i}" for i in range(num_classes)]
    found = figures.classification(logits.softmax(-1), label, names, lambda *_: None)
    assert set(found) == {"confusion", "classes", "reliability", "curves"}
    axis = found["confusion"].axes[0]
    for figure in (found["confusion"], found["curves"]):
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.get_yticklabels() if text.get_text()]
    assert all(a.y0 >= b.y1 or b.y0 >= a.y1 for a, b in pairwise(boxes)), "names overlap"
    assert min(box.x0 for box in boxes) >= 0, "names are cut off"
    assert len(found["curves"].axes[0].get_lines()) <= 11
