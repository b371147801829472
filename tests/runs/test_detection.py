"""Runs of object detection: learning, predictions in original pixels, explanations, an exported file, torchvision."""

import asyncio
import base64
import csv
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import nn

from lab import train
from lab.data.box_files import write_tiny
from lab.engine.config.compose import compose_config
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.boxes import COLOURS, EDGES
from lab.nets.torchvision_detection import TorchvisionDetection
from lab.testing.base import build as build_task
from lab.testing.base import compose, read, rows
from lab.verbs.explain import main as explain
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict
from lab.verbs.predictor import from_config
from lab.verbs.serve.server import build

WORDS = ["trainer=cpu", "trainer.enable_progress_bar=false", "trainer.max_steps=75", "data.image_size=64", "ema=null"]
NET = ["net.widths=[8,8,16,16,16]", "net.width=16", "optimizer.lr=0.01", "data.batch_size=8", "data.augment=null"]


@pytest.fixture(scope="module")
def run(once) -> Path:
    """A finished run on bright rectangles, `boxes/`, with model.onnx."""

    def make(folder: Path) -> None:
        filter_warnings()
        (folder / "boxes").mkdir(parents=True)
        write_tiny(folder / "boxes")
        words = [*WORDS, *NET, f"run={folder}/run", f"data.root={folder}/boxes"]
        train.main(compose_config("train", ["experiment=detect", *words]))
        export.main(compose_config("export", [f"run={folder}/run"]))

    return once("detection", make)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_it_learns_and_draws(run):
    results = json.loads((run / "run/results.json").read_text())["test"]
    assert results["test/map_50"] > 0.8
    assert {"test/ap/tall", "test/ap/wide", "test/loss/box", "test/loss/class"} <= results.keys()
    figures = {path.stem for path in (run / "run/figures").glob("*.png")}
    assert {"train_samples", "test_worst", "test_errors", "test_confusion", "test_curves"} <= figures
    rows = table(run / "run/test_predictions.csv")
    assert {each["class"] for each in json.loads(rows[0]["objects"])} == {"tall", "wide"}


def test_the_exported_file_finds_the_same_boxes(run):
    report = json.loads((run / "run/export.json").read_text())["model.onnx"]
    assert report["same_answer"] == report["num_samples"]
    assert max(report["max_difference"].values()) < 1e-4


@pytest.mark.parametrize("model", ["run=run", "model=run/model.onnx"])
def test_predictions_are_rows_in_pixels_of_the_original(model, run, tmp_path, monkeypatch):
    """A picture that is twice as large has boxes that are twice as large."""
    filter_warnings()
    (tmp_path / "pictures").mkdir()
    with Image.open(run / "boxes/03.png") as small:
        small.save(tmp_path / "pictures/a.png")
        small.resize((128, 96), Image.Resampling.NEAREST).save(tmp_path / "pictures/b.png")
    Image.new("RGB", (30, 90), (20, 20, 20)).save(tmp_path / "pictures/c.png")
    monkeypatch.chdir(run)
    words = [model, f"input={tmp_path}/pictures", f"output={tmp_path}/out.csv"]
    predict.main(compose_config("predict", [*words, *(["trainer=cpu"] if model == "run=run" else [])]))
    rows = table(tmp_path / "out.csv")
    assert list(rows[0]) == ["path", "picture", "class", "score", "x1", "y1", "x2", "y2", "error"]
    of = {name: [row for row in rows if row["path"].endswith(f"{name}.png")] for name in "abc"}
    boxes = {
        name: {row["class"]: np.array([float(row[edge]) for edge in EDGES]) for row in each}
        for name, each in of.items() if name != "c"
    }  # fmt: skip
    content = json.loads((run / "boxes/boxes.json").read_text())
    for row in (row for row in content["annotations"] if row["image_id"] == 3):
        x, y, width, height = row["bbox"]
        kind = {1: "wide", 2: "tall"}[row["category_id"]]
        np.testing.assert_allclose(boxes["a"][kind], [x, y, x + width, y + height], atol=4)
        np.testing.assert_allclose(boxes["b"][kind], 2 * boxes["a"][kind], atol=3)
    assert [(row["class"], row["error"]) for row in of["c"]] == [("", "")]
    with Image.open(tmp_path / of["a"][0]["picture"]) as drawn:
        assert drawn.size == (480, 360)


def test_the_server_draws_the_boxes_on_the_picture(run):
    """The page shows this file. The edges of each box have the colour of its class."""

    async def ask() -> dict:
        cfg = compose_config("serve", [f"model={run}/run/model.onnx"])
        app = build(cfg, from_config(cfg), "boxes", {"localhost"})
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
            sent = {"content": (run / "boxes/03.png").read_bytes(), "headers": {"Content-Type": "image/png"}}
            return (await client.post("http://localhost/predict", **sent)).json()

    answer = asyncio.run(ask())
    kind, content = answer["picture"].split(",", 1)
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as drawn:
        assert drawn.size == (480, 360)
        assert {row["class"] for row in answer["top"]} == {"tall", "wide"}
        row = answer["top"][-1]  # no other box covers its edges
        x1, y1, x2, y2 = (7.5 * row[edge] for edge in EDGES)
        expected = ImageColor.getrgb(COLOURS[["tall", "wide"].index(row["class"])])
        assert [drawn.getpixel(at) for at in ((x1 + 1, (y1 + y2) / 2), ((x1 + x2) / 2, y2 - 2))] == [expected] * 2


def test_pixels_of_the_objects_are_explained(run, tmp_path, monkeypatch):
    filter_warnings()
    monkeypatch.chdir(run)
    words = ["run=run", "input=boxes/03.png", "methods=[integrated_gradients]", "trainer=cpu"]
    explain.main(compose_config("explain", words))
    report = json.loads((run / "run/explain/report.json").read_text())
    assert report["samples"][0]["prediction"][0] in ("tall", "wide")
    assert report["methods"]["integrated_gradients"]["deletion"] < report["methods"]["random"]["deletion"]


@torch.autocast("cpu", torch.bfloat16)  # as experiment=detect trains it
def test_a_detector_of_torchvision():
    """Its loss, its gradients, and its boxes as candidates; in evaluation the loss is repeatable."""
    torch.manual_seed(0)
    net = TorchvisionDetection(1, 64, 2, "ssdlite320_mobilenet_v3_large")
    image = torch.rand(2, 1, 64, 64)
    boxes, label = torch.tensor([[[5.0, 5, 40, 40], [0, 0, 0, 0]]] * 2), torch.tensor([[1, -1], [-1, -1]])
    parts, _ = net.losses(image, boxes, label)
    sum(parts.values()).backward()
    assert next(net.parameters()).grad.abs().sum() > 0
    net.eval()
    with torch.no_grad():
        one, other = (net.losses(image, boxes, label)[0] for _ in range(2))
        found, logits = net(image)
    assert not any(module.training for module in net.modules())
    assert all(one[name].equal(other[name]) for name in one)
    assert found.shape == (2, 100, 4)
    assert logits.shape == (2, 100, 2)
    assert ((logits > -torch.inf).sum(-1) <= 1).all()


def test_a_detector_of_torchvision_overfits_four_pictures():
    """Its score stays 0 if classes, sizes or edges are not those of torchvision."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    words = ["experiment=detect", "data.tiny=true", "data.image_size=160", "data.augment=null"]
    words += ["net=torchvision_detection", f"net.name={name}"]
    data = read(words)
    task = build_task(compose(*words), data)
    task.net.model.roi_heads.fg_bg_sampler.batch_size_per_image = 64  # a fifth of the time less
    batch = rows(data.splits["train"], data, range(4))
    optimizer = torch.optim.AdamW(task.net.parameters(), lr=0.001)
    scores = []
    while 1 not in scores and len(scores) < 20:
        for _ in range(10):
            optimizer.zero_grad()
            task.train().step(batch, "train").loss.backward()
            nn.utils.clip_grad_norm_(task.net.parameters(), 5)
            optimizer.step()
        with torch.no_grad():
            outputs = task.eval().step(batch, "val").outputs
        task.metrics["val"].reset()
        task.metrics["val"].update(**outputs)
        scores.append(task.metrics["val"].compute()["map_50"].item())
    assert scores[-1] == 1, scores
