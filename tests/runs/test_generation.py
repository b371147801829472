"""A generator is trained, scored by a judge, tested again, asked, exported and served."""

import csv
import json
import signal

import numpy as np
import PIL.Image
import pytest
import torch
from fastapi.testclient import TestClient
from resuming import outcome, stopped

from lab import runs, train
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.metrics.generation import frechet_distance
from lab.tasks.generation import judged
from lab.tasks.judge import Judge
from lab.testing import base as contracts
from lab.testing.tasks import same
from lab.verbs import predictor
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict
from lab.verbs.serve.server import build

SCORES = {
    "fd", "kid", "precision", "recall", "judged_right", "judged_right_real", "num_generated", "nearest", "fd_train",
    "fd_class_mean", "gap_closed",
}  # fmt: skip


@pytest.fixture(scope="module")
def generator(tmp_path_factory, digits_run):
    """The folder of a finished run with a judge, and model.onnx in it."""
    folder = tmp_path_factory.mktemp("generate") / "run"
    filter_warnings()
    words = [
        "experiment=generate_digits", "data.tiny=true", "net.width=8", "task.steps=3", f"task.judge={digits_run}",
        "trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "task.sheet_every=2", "ema=0.5",
    ]  # fmt: skip
    train.main(compose_config("train", [*words, f"run={folder}"]))
    export.main(compose_config("export", [f"run={folder}"]))
    return folder


def asked(*words):
    predict.main(compose_config("predict", list(words)))


def test_the_judge_scores_validation_and_test(generator, digits_run):
    results = json.loads((generator / "results.json").read_text())
    for stage, values in (("test", results["test"]), ("val", results["best"]["metrics"])):
        names = {name.partition("/")[2] for name in values} - {"loss"}
        assert names == SCORES, stage
    assert results["test"]["test/num_generated"] == 40
    expected = json.loads((digits_run / "results.json").read_text())["test"]["test/acc"]
    assert results["test"]["test/judged_right_real"] == pytest.approx(expected)


def test_the_figures_are_drawn(generator):
    found = {path.stem for path in (generator / "figures").glob("*.png")}
    assert found >= {"epoch_samples", *(f"test_{n}" for n in ("samples", "interpolations", "nearest", "steps"))}


@pytest.mark.parametrize("batch_size", [32, 1, 7, 64])
def test_another_test_gives_the_same_scores(generator, batch_size):
    """Bitwise with the same batches; with others, the features of the judge are rounded otherwise."""
    cfg, data, task = runs.load(generator, test_split=True)
    data.batch_size = batch_size
    found = runs.evaluation_trainer(cfg, {}).test(task, data, verbose=False)[0]
    expected = json.loads((generator / "results.json").read_text())["test"]
    if batch_size == cfg.data.batch_size:
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_judge_of_other_classes_is_refused(generator):
    cfg, data, task = runs.load(generator, test_split=True)
    task.class_names = [*"abcdefghij"]
    with pytest.raises(UserError, match=r"task.judge: its classes are 0, 1, .*; expected a, b"):
        runs.evaluation_trainer(cfg, {}).test(task, data, verbose=False)


def test_the_distance_orders_known_material(digits_run):
    """Training pictures, noisy ones, blurred ones, the mean picture of each class, the mean picture."""
    _, data, _ = runs.load(digits_run, test_split=True)
    judge = Judge(digits_run)
    real, train_split = (data.splits[name].tensors for name in ("test", "train"))
    image, label = train_split["image"].float() / 255, train_split["label"]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([image[label == c].mean(0) for c in range(10)])
    blurred = torch.nn.AvgPool2d(3, 1, 1)
    material = [  # weak noise and weak blur: the judge of this test has learned little
        image, (image + 0.05 * noise).clamp(0, 1), blurred(blurred(image)), mean[label],
        image.mean(0, keepdim=True).expand_as(image) + 1e-4 * noise,
    ]  # fmt: skip
    expected = judged(judge, real["image"].float() / 255)[0]
    distances = [frechet_distance(judged(judge, each)[0], expected).item() for each in material]
    assert distances == sorted(distances), distances


def test_flow_matching_learns():
    """The distance is of pixels. The mean image of each class is better than the samples of a poor net."""
    cfg = contracts.compose("experiment=generate_digits", "data.tiny=true", "data.image_size=8", "net.width=16")
    data = contracts.read(["experiment=generate_digits", "data.tiny=true", "data.image_size=8"])
    task, train_split = contracts.build(cfg, data), data.splits["train"]
    optimizer = torch.optim.Adam(task.net.parameters(), 0.005, (0.9, 0.99))
    order = torch.Generator().manual_seed(0)
    for step in range(120):
        index = torch.randint(len(train_split), (64,), generator=order)
        batch = data.on_after_batch_transfer(train_split.__getitems__(index.tolist()))
        loss = task.step(batch | {"index": 1000 * step + index}, "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, label = train_split.tensors["image"].flatten(1) / 255, train_split.tensors["label"]
    with torch.no_grad():
        made = task.eval().predict_step({"index": torch.arange(len(label)), "label": label}, 0)["picture"].flatten(1)
    mean = torch.stack([image[label == c].mean(0) for c in range(10)])
    assert frechet_distance(made, image) < 0.9 * frechet_distance(mean[label], image)
    assert (label[torch.cdist(made, image).argmin(1)] == label).float().mean() > 0.9


GENERATORS = {"flow_matching": "unet", "vae": "vae", "gan": "gan"}


@pytest.mark.parametrize("task", GENERATORS)
def test_a_killed_run_ends_as_one_that_was_not(task, tmp_path):
    words = [
        "experiment=generate_digits", "data.tiny=true", "data.image_size=8", f"task={task}", f"net={GENERATORS[task]}",
        "net.width=8", "trainer=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false", "figures=false",
        "checkpoint.every_n_steps=1",
    ]  # fmt: skip

    def start(name):
        train.main(compose_config("train", add_run_overrides([*words, f"run={tmp_path}/{name}"])))

    start("whole")
    stopped(3, signal.SIGKILL, start=lambda: start("cut"))
    assert (tmp_path / "cut/last.ckpt").exists()
    start("cut")
    whole, cut = (outcome(tmp_path / name) for name in ("whole", "cut"))
    assert same(whole, cut)
    results = [json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("whole", "cut")]
    assert results[0] == results[1]


class TestPredict:
    def test_files_a_sheet_and_a_table(self, generator, tmp_path):
        asked(f"run={generator}", "num=12", f"output={tmp_path}/samples/")
        names = {path.name for path in (tmp_path / "samples").iterdir()}
        assert names == {*(f"{i:06d}.png" for i in range(1, 13)), "sheet.png", "predictions.csv"}
        rows = list(csv.DictReader((tmp_path / "samples/predictions.csv").read_text().splitlines()))
        assert [row["label"] for row in rows] == [str(i % 10) for i in range(12)]
        assert {(row["seed"], row["steps"], row["guidance"], row["error"]) for row in rows} == {("0", "3", "1", "")}
        assert rows[0]["picture"] == "samples/000001.png"

    def pictures(self, folder):
        return [np.asarray(PIL.Image.open(path)).astype(int) for path in sorted(folder.glob("0*.png"))]

    def test_a_picture_depends_on_its_inputs_alone(self, generator, tmp_path):
        table = tmp_path / "asked.csv"
        table.write_text("label,seed\n0,0\n1,0\n2,7\n2,7\n")
        words = {
            "num": ["num=4"], "table": [f"input={table}"], "seed": ["num=4", "inputs.seed=7"],
            "guided": ["num=4", "inputs.guidance=3"], "steps": ["num=4", "inputs.steps=1"],
            "class": ["num=4", "inputs.label=2", "inputs.seed=7"],
        }  # fmt: skip
        found = {}
        for name, more in words.items():
            asked(f"run={generator}", *more, f"output={tmp_path}/{name}/")
            found[name] = self.pictures(tmp_path / name)
        assert all((a == b).all() for a, b in zip(found["num"][:2], found["table"][:2], strict=True))
        assert (found["class"][2] == found["table"][2]).all()
        assert (found["class"][3] == found["table"][3]).all()
        assert (found["table"][2] != found["table"][3]).any(), "two rows have two noises"
        for name in ("seed", "guided", "steps"):
            assert all((a != b).any() for a, b in zip(found["num"], found[name], strict=True)), name

    def test_the_exported_sampler_gives_the_same_pictures(self, generator, tmp_path):
        report = json.loads((generator / "export.json").read_text())["model.onnx"]
        assert max(report["max_difference"].values()) < 1e-3
        assert b"/torch/" not in (generator / "model.onnx").read_bytes(), "stack traces"
        made = (predictor.from_run(str(generator), {}), predictor.from_onnx(generator / "model.onnx"))
        for steps in (1, 8, 50):
            asked = [
                made[0].example() | {"steps": np.array(steps), "guidance": np.float32(1 + i % 2)} for i in range(4)
            ]
            for one, other in zip(*(each.answers(asked, range(4)) for each in made), strict=True):
                assert abs(one["picture"] - other["picture"]).max() < 1e-3

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["num=2", "inputs.guidanse=2"], "inputs: unknown input guidanse. Did you mean guidance?"),
            (["num=2", "input=x.csv"], "input, num: expected one of them"),
            ([], "input is required"),
            (["num=0"], "num=0: should be greater than 0"),
        ],
    )
    def test_wrong_words_are_named(self, generator, tmp_path, words, message):
        with pytest.raises(UserError, match=message):
            asked(f"run={generator}", *words, f"output={tmp_path}/x/")

    def test_a_classifier_generates_nothing(self, digits_run, tmp_path):
        with pytest.raises(UserError, match="num=2: the input image has no default; give inputs.image=… or input=PATH"):
            asked(f"run={digits_run}", "num=2", f"output={tmp_path}/x.csv")


def test_a_picture_is_served_with_and_without_settings(generator):
    cfg = compose_config("serve", [f"run={generator}"])
    with TestClient(build(cfg, predictor.from_run(str(generator), {}), "run", None)) as client:
        inputs = client.get("/health").json()["inputs"]
        assert {name: each["default"] for name, each in inputs.items()} == {
            "label": None, "seed": "0", "steps": "3", "guidance": "1",
        }  # fmt: skip
        usual = client.post("/predict", json={"label": "3"}).json()
        assert usual["picture"].startswith("data:image/png;base64,")
        full = {"label": "3", "seed": 0, "steps": 3, "guidance": 1.0}
        assert client.post("/predict", json=full).json() == usual
        form = client.post("/predict", data={"label": "3", "steps": "3"}, files={"seed": b"0"})
        assert form.json() == usual
        assert client.post("/predict", json=full | {"seed": 1}).json() != usual
        wrong = client.post("/predict", json=full | {"steps": 0})
        assert wrong.status_code == 400
        assert wrong.json()["error"] == "steps: 0: expected an integer from 1 to 1000."
