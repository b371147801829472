"""Six tasks that lab does not have are trained, resumed, tested, asked, exported and served; `fork/` holds them."""

import csv
import io
import json
import signal
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import PROOFS
from fastapi.testclient import TestClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab import config, predictor
from lab.serve.server import build

WORDS = {name: ["data.batch_size=16", "data.tiny=true"] for name in ("diffusion", "fusion", "gan", "distillation")}
WORDS |= {"detector": ["data.num_pictures=160"]}
FIGURES = {
    "diffusion": ["epoch/samples"], "detector": ["test/found"], "gan": ["epoch/samples"],
    "fusion": ["test/confusion"], "distillation": ["test/confusion"],
}  # fmt: skip
TABLES = ("detector", "fusion", "distillation")  # that have a row for each test sample
QUIET = ["trainer=cpu", "trainer.enable_progress_bar=false"]
TEACHER = [
    "data.image_size=8", "data.batch_size=16", "data.tiny=true", "data.augment=null", "ema=null", "scheduler=constant",
]  # fmt: skip


def words(name: str, folder: Path, *more: str) -> list[str]:
    teacher = [f"task.teacher={folder.parent / 'teacher'}"] if name == "distillation" else []
    return ["train", f"experiment=proof_{name}", *WORDS[name], *teacher, f"run={folder}", *QUIET, *more]


@pytest.fixture(scope="module", params=sorted(WORDS))
def proof(request, tmp_path_factory, lab_in) -> tuple[str, Path]:
    """The name of a task, and the folder of its run of two epochs."""
    folder = tmp_path_factory.mktemp("proofs") / request.param
    if request.param == "distillation":
        teacher = [f"run={folder.parent / 'teacher'}", "trainer.max_epochs=2", "figures=false", *QUIET]
        result = lab_in(folder.parent, "train", "experiment=digits", "net=mlp", "net.widths=[32]", *TEACHER, *teacher)
        assert result.returncode == 0, result.stderr
    result = lab_in(folder.parent, *words(request.param, folder, "trainer.max_epochs=2"))
    assert result.returncode == 0, result.stderr
    return request.param, folder


def test_the_loss_is_learned_and_its_parts_are_shown(proof):
    name, folder = proof
    rows = list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert len(losses) == 2
    assert name == "gan" or losses[1] < losses[0]
    parts = {"detector": {"corners", "presence"}, "gan": {"critic", "generator"}, "distillation": {"label", "teacher"}}
    shown = {key.removeprefix("val/loss/") for key in rows[0] if key.startswith("val/loss/")}
    assert shown == parts.get(name, set())


def test_lab_test_gives_the_numbers_of_the_run(proof, lab_in):
    _, folder = proof
    result = lab_in(folder.parent, "test", f"run={folder}", "trainer=cpu")
    assert result.returncode == 0, result.stderr
    shown = dict(line.split() for line in result.stdout.splitlines() if line.startswith("test/"))
    expected = json.loads((folder / "results.json").read_text())["test"]
    assert shown == {name: f"{expected[name]:.4f}" for name in shown}
    assert {"test/loss"} <= shown.keys()


def test_figures_and_predictions_are_there(proof):
    name, folder = proof
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert set(FIGURES[name]) <= set(events.Tags()["images"])
    if FIGURES[name] == ["epoch/samples"]:
        assert len(events.Images("epoch/samples")) == 2, "one for each epoch"
    table = folder / "test_predictions.csv"
    assert table.exists() == (name in TABLES)
    if table.exists():
        rows = list(csv.DictReader(io.StringIO(table.read_text())))
        samples = json.loads((folder / "data.json").read_text())["num_samples"]["test"]
        assert len(rows) == samples


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(proof, lab_in, tmp_path):
    """`make chaos` does it at more points, and with two processes."""
    name, whole = proof
    site = tmp_path / "sitecustomize.py"
    site.write_text(KILL)
    folder = whole.parent / f"{name}-killed"
    command = words(name, folder, "trainer.max_epochs=2", "checkpoint.every_n_steps=3", "figures=false")
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


@pytest.fixture
def fork(monkeypatch):
    monkeypatch.syspath_prepend(str(PROOFS))


def picture(height: int, width: int) -> bytes:
    pixels = np.zeros((height, width), np.uint8)
    pixels[: height // 3, : width // 3] = 255
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def item(name: str, folder: Path) -> tuple[str, dict]:
    """What is predicted: a file of inputs, and the body of a request."""
    (folder / "a.png").write_bytes(picture(12, 30))
    if name == "fusion":
        (folder / "items.csv").write_text("image,text\na.png,five more\n")
        return "items.csv", {"files": {"image": ("a.png", picture(12, 30))}, "data": {"text": "five more"}}
    if name in ("detector", "distillation"):
        return "a.png", {"files": {"file": ("a.png", picture(12, 30))}}
    (folder / "items.txt").write_text("7\n3\n")
    return "items.txt", {"json": {"label": "7"}}


def test_it_answers_from_the_run_an_exported_file_and_a_server(proof, lab_in, fork, tmp_path):
    name, folder = proof
    source, request = item(name, tmp_path)
    made = lab_in(tmp_path, "predict", f"run={folder}", f"input={source}", "output=out.jsonl", "trainer=cpu")
    assert made.returncode == 0, made.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    check_rows(name, rows, tmp_path)
    export = lab_in(tmp_path, "export", f"run={folder}", f"output={tmp_path}/model.onnx")
    assert export.returncode == 0, export.stderr
    again = lab_in(tmp_path, "predict", "model=model.onnx", f"input={source}", "output=again.jsonl")
    assert again.returncode == 0, again.stderr
    check_rows(name, [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()], tmp_path)
    cfg = config.compose("serve", [f"run={folder}", "trainer=cpu"])
    with TestClient(build(cfg, predictor.from_run(str(folder), cfg.trainer), name, None)) as client:
        answer = client.post("/predict", **request)
        assert answer.status_code == 200, answer.text
        explained = client.post("/explain", **request).json()
        assert explained["explanation"] or explained["why"].count(".") == 1
        assert client.get("/").status_code == 200


def check_rows(name: str, rows: list[dict], folder: Path) -> None:
    assert not any(row["error"] for row in rows)
    if name == "detector":
        for x0, y0, x1, y1 in json.loads(rows[0]["found"]):
            assert 0 <= x0 <= x1 <= 30 or x0 <= 30
            assert max(y0, y1) <= 12
    elif name in ("fusion", "distillation"):
        assert rows[0]["class"] in map(str, range(10))
        assert 0 < rows[0]["probability"] <= 1
    else:
        pictures = [PIL.Image.open(folder / row["picture"]) for row in rows]
        assert [each.size for each in pictures] == [(8, 8)] * 2
        assert pictures[0].tobytes() != pictures[1].tobytes()
