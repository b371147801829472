"""Six tasks that lab does not have are trained, resumed, tested, asked, exported and served.

Five are in `fork/`; the regression is that of docs/extending.md.
"""

import base64
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import page
import PIL.Image
import pytest
import torch
from conftest import PROOFS
from fastapi.testclient import TestClient
from tables import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.engine.config.compose import compose_config
from lab.testing import ClassifierContract, DataContract, FeatureContract, TaskContract
from lab.verbs import predictor
from lab.verbs.serve.server import build

WORDS = {name: ["data.batch_size=16", "data.tiny=true"] for name in ("diffusion", "fusion", "gan", "distillation")}
WORDS |= {"detector": ["data.num_pictures=160", "data.batch_size=10"], "regression": ["data.batch_size=30"]}
EPOCHS = {"detector": 30}  # of others: two
FIGURES = {
    "diffusion": ["epoch/samples"], "detector": ["test/found"], "gan": ["epoch/samples"],
    "fusion": ["test/confusion"], "distillation": ["test/confusion"], "regression": [],
}  # fmt: skip
TABLES = ("detector", "fusion", "distillation", "regression")  # that have a row for each test sample
QUIET = ["trainer=cpu", "trainer.enable_progress_bar=false"]
TEACHER = [
    "data.image_size=8", "data.batch_size=16", "data.tiny=true", "data.augment=null", "ema=null", "scheduler=constant",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory) -> Iterator[Path]:
    """The packages of the proofs are importable; the folder of the page's."""
    folder = tmp_path_factory.mktemp("page")
    page.install(folder)
    subprocess.run([sys.executable, "make_houses.py"], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for path in (folder, PROOFS):
            monkeypatch.syspath_prepend(str(path))
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, lab_in) -> Path:
    """The run that the distillation learns from."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    words = ["net=mlp", "net.widths=[32]", *TEACHER, f"run={folder}", "trainer.max_epochs=2", "figures=false", *QUIET]
    result = lab_in(folder.parent, "train", "experiment=digits", *words)
    assert result.returncode == 0, result.stderr
    return folder


def experiment(name: str, request: pytest.FixtureRequest) -> list[str]:
    """The words of a proof after `lab train`."""
    if name == "regression":
        return ["experiment=house_prices", f"data.root={request.getfixturevalue('installed')}/houses.csv", *WORDS[name]]
    more = [f"task.teacher={request.getfixturevalue('teacher')}"] if name == "distillation" else []
    return [f"experiment=proof_{name}", *WORDS[name], *more]


def words(name: str, folder: Path, request: pytest.FixtureRequest) -> list[str]:
    epochs = f"trainer.max_epochs={EPOCHS.get(name, 2)}"
    return ["train", *experiment(name, request), f"run={folder}", epochs, *QUIET]


@pytest.fixture(scope="module", params=sorted(WORDS))
def proof(request, tmp_path_factory, lab_in) -> tuple[str, Path]:
    """The name of a task, and the folder of its run."""
    folder = tmp_path_factory.mktemp("proofs") / request.param
    result = lab_in(folder.parent, *words(request.param, folder, request))
    assert result.returncode == 0, result.stderr
    return request.param, folder


def suited(*names: str) -> Any:
    """The fixture `overrides` of a suite that runs on these proofs."""

    @pytest.fixture(params=names)
    def overrides(self: Any, request: pytest.FixtureRequest, installed: Path) -> list[str]:
        return experiment(request.param, request)

    return overrides


class TestTheirData(DataContract):
    overrides = suited("detector", "fusion")  # test_extending.py runs the suites of the regression
    has_twins = True  # some pictures of rectangles are equal


class TestTheirTasks(TaskContract):
    overrides = suited("detector", "diffusion", "gan")
    test_a_run_that_is_resumed_ends_as_one_that_was_not = None  # below it is killed


class TestTheirClassifiers(ClassifierContract):
    overrides = suited("distillation", "fusion")
    test_a_run_that_is_resumed_ends_as_one_that_was_not = None


def png(height: int, width: int) -> bytes:
    """A picture with a bright rectangle from its upper left corner to a third of its height and width."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[: height // 3, : width // 3] = 255
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class TestPhoto(FeatureContract):
    contents = (png(12, 30), png(9, 9))

    @pytest.fixture
    def feature(self, installed: Path) -> Any:
        return importlib.import_module("proofs.features").Photo(1, 16)


class TestBoxes(FeatureContract):
    samples = ({"boxes": np.array([[0, 0, 0.5, 1], [0, 0, 0, 0]], np.float32), "box_label": np.array([0, -1])},)
    inputs = ({"original": np.array([12, 30], np.float32)},)

    @pytest.fixture
    def feature(self, installed: Path) -> Any:
        return importlib.import_module("proofs.features").Boxes(2)


def test_the_loss_is_learned_and_its_parts_are_shown(proof):
    name, folder = proof
    rows = read_rows(folder / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert len(losses) == EPOCHS.get(name, 2)
    assert name == "gan" or losses[-1] < losses[0]
    parts = {"detector": {"corners", "presence"}, "gan": {"critic", "generator"}, "distillation": {"label", "teacher"}}
    shown = {key.removeprefix("val/loss/") for key in rows[0] if key.startswith("val/loss/")}
    assert shown == parts.get(name, set())


def test_lab_test_gives_the_numbers_of_the_run(proof, lab_in):
    _, folder = proof
    result = lab_in(folder.parent, "test", f"run={folder}", "trainer=cpu")
    assert result.returncode == 0, result.stderr
    shown = dict(line.split() for line in result.stdout.splitlines() if line.startswith("test/"))
    expected = json.loads((folder / "results.json").read_text())["test"]
    assert "test/loss" in shown
    # classes stand side by side
    assert shown == {name: f"{value:.4f}" for name, value in expected.items() if "/acc/" not in name}


def test_figures_and_predictions_are_there(proof):
    name, folder = proof
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert set(FIGURES[name]) <= set(events.Tags()["images"])
    if FIGURES[name] == ["epoch/samples"]:
        assert len(events.Images("epoch/samples")) == 2, "one for each epoch"
    table = folder / "test_predictions.csv"
    assert table.exists() == (name in TABLES)
    if table.exists():
        rows = read_rows(table)
        samples = json.loads((folder / "data.json").read_text())["num_samples"]["test"]
        assert len(rows) == samples


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(proof, lab_in, tmp_path, request):
    """`make proofs` does it at more points, and with two processes."""
    name, whole = proof
    site = tmp_path / "sitecustomize.py"
    site.write_text(KILL)
    folder = whole.parent / f"{name}-killed"
    command = [*words(name, folder, request), "checkpoint.every_n_steps=3", "figures=false"]
    result = lab_in(tmp_path, *command, env={"KILL_AT": "5"})
    assert result.returncode == -signal.SIGKILL
    result = lab_in(tmp_path, *command)
    assert result.returncode == 0, result.stderr
    states = [torch.load(path / "last.ckpt", weights_only=True) for path in (whole, folder)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert repr(flat(states[0][key])) == repr(flat(states[1][key])), key


KILL = """
import os, signal
if "KILL_AT" in os.environ:
    from lab.tasks.base import Task
    step = Task.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    Task.training_step = training_step
"""


def flat(state):
    """A state with the digests of its tensors."""
    if isinstance(state, torch.Tensor):
        return state.shape, state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return [flat(value) for value in state] if isinstance(state, list | tuple) else state


def item(name: str, folder: Path) -> tuple[str, dict]:
    """The inputs of a prediction: a file, and the body of a request."""
    (folder / "a.png").write_bytes(png(12, 30))
    if name == "fusion":
        (folder / "items.csv").write_text("image,text\na.png,five more\n")
        return "items.csv", {"files": {"image": ("a.png", png(12, 30))}, "data": {"text": "five more"}}
    if name in ("detector", "distillation"):
        return "a.png", {"files": {"file": ("a.png", png(12, 30))}}
    if name == "regression":
        (folder / "items.csv").write_text("size,age\n1.5,0.25\n0.5,0.75\n")
        return "items.csv", {"json": {"numbers": [1.5, 0.25]}}
    (folder / "items.txt").write_text("7\n3\n")
    return "items.txt", {"json": {"label": "7"}}


def test_it_answers_alike_from_the_run_an_exported_file_and_a_server(proof, lab_in, tmp_path):
    name, folder = proof
    source, request = item(name, tmp_path)
    export = lab_in(tmp_path, "export", f"run={folder}", f"output={tmp_path}/model.onnx")
    assert export.returncode == 0, export.stderr
    rows = {}
    for table, model in (("run", [f"run={folder}", "trainer=cpu"]), ("file", ["model=model.onnx"])):
        made = lab_in(tmp_path, "predict", *model, f"input={source}", f"output={table}.jsonl")
        assert made.returncode == 0, made.stderr
        found = [json.loads(line) for line in (tmp_path / f"{table}.jsonl").read_text().splitlines()]
        assert not any(row.pop("error") for row in found)
        rows[table] = [{key: plain(value, tmp_path) for key, value in row.items()} for row in found]
    check_answers(name, rows["run"])
    for one, other in zip(*rows.values(), strict=True):
        check_alike(one, other)
    cfg = compose_config("serve", [f"run={folder}", "trainer=cpu"])
    with TestClient(build(cfg, predictor.from_run(str(folder), cfg.trainer), name, None)) as client:
        answer = client.post("/predict", **request)
        assert answer.status_code == 200, answer.text
        served = {key: plain(value, tmp_path) for key, value in answer.json().items() if key != "top"}
        check_alike(served, {key: rows["run"][0][key] for key in served})
        explained = client.post("/explain", **request).json()
        assert explained["explanation"] or explained["why"].count(".") == 1
        assert client.get("/").status_code == 200


def plain(value: object, folder: Path) -> object:
    """A value of an answer: the pixels of a picture, the numbers in JSON."""
    if isinstance(value, str) and value.startswith("data:image/png;base64,"):
        return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2])))).astype(int)
    if isinstance(value, str) and value.endswith(".png") and "/" in value:
        return np.asarray(PIL.Image.open(folder / value)).astype(int)
    return np.array(json.loads(value)) if isinstance(value, str) and value.startswith("[") else value


def check_alike(one: dict, other: dict) -> None:
    """Two rows are equal: numbers to a digit of their rounding, pixels to a level."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.shape == other[key].shape
            np.testing.assert_allclose(value, other[key], atol=1 if value.dtype == int else 0.11)
        else:
            assert value == (pytest.approx(other[key], abs=2e-4) if isinstance(value, float) else other[key]), key


def check_answers(name: str, rows: list[dict]) -> None:
    """The answers for what `item` has."""
    if name == "detector":
        (box,) = rows[0]["found"]
        np.testing.assert_allclose(box, [0, 0, 10, 4], atol=2)
    elif name in ("fusion", "distillation"):
        assert rows[0]["class"] in map(str, range(10))
        assert 0 < rows[0]["probability"] <= 1
    elif name == "regression":
        assert rows[0]["price"] > rows[1]["price"]
    else:
        one, other = (row["picture"] for row in rows)
        assert one.shape == other.shape == (8, 8)
        assert (one != other).any()
