"""Names that are not UTF-8, control characters and formulas are drawn, written and logged as what they are."""

import html

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.callbacks.figures import Figures
from lab.engine.display import printable, printable_lines
from lab.features.image import Image as Picture
from lab.figures import classification as figures
from lab.figures import page
from lab.figures.images import images
from lab.verbs import report
from lab.verbs.explain import images as explain_images
from lab.verbs.explain import main as explain
from lab.verbs.explain.group import Group

NASTY = ["caf\udce9", "\ud83d", "a\x1b[2J\tb\0", r"$x$ and $y^{$\$5", "_two\nlines"]


def test_letters_without_a_font_are_named_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "told", set())
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["DejaVu Sans"])
    for name in ("图书", "plain", "图"):
        figure, _ = page.page((2, 2), name, (0.5, 0.5, 0.2, 0.4))
        page.save(figure, tmp_path / f"{name}.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no installed font has 书图: figures show boxes.")


def shown(figure):
    """Draw a figure; all that is to be read in it."""
    figure.canvas.draw() if hasattr(figure.canvas, "draw") else figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible()]
    assert not any(text._preprocess_math(text.get_text())[1] for text in texts if "mathdefault" not in text.get_text())
    return "\n".join(text._preprocess_math(text.get_text())[0] for text in texts)


@pytest.mark.parametrize("name", NASTY)
def test_every_figure_shows_a_name_as_it_is(name):
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    probability = torch.eye(3)[[0, 1, 2, 1, 2, 0]] * 0.9 + 0.03
    captions = []

    def show(rows, own, title):
        captions.extend(own)

    found = figures.classification(probability, label, [name, "b", "c"], show)
    assert printable(name) in shown(found["confusion"])
    assert f"{printable(name)}\n" in f"{shown(found['curves'])}\n"
    assert any(caption.startswith(f"{printable(name)}\n→") for caption in captions)
    many = figures.confusion(torch.zeros(31).long(), torch.arange(31), [name, *map(str, range(30))])
    assert f"of {printable_lines(name)} taken for" in shown(many)
    assert printable_lines(name) in shown(images(torch.rand(1, 3, 4, 4), [name], name))


@pytest.mark.parametrize("name", NASTY)
def test_an_explanation_shows_a_name_as_it_is(name, tmp_path):
    folder = tmp_path / "explain"
    folder.mkdir()
    target, half = torch.tensor([0]), torch.tensor([0.5])
    group = Group("inputs", name, [name], [np.zeros((1, 4, 4), np.uint8)], target, half)
    explain_images.ImageExplainer(Picture(1, 4)).draw(group, {"a": [torch.zeros(4, 4)]}, [name], folder)
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["explain/inputs"]
    listed = explain.description(group, folder / "inputs.png", [name])
    listed["sample"][0].encode()


@pytest.mark.parametrize("name", NASTY)
def test_texts_of_a_run_are_written_and_logged_as_they_are(name, tmp_path):
    board = TensorBoardLogger(tmp_path, name="", version="")
    Figures(tmp_path, [board], draw=True).write_figures("test", {"text": name}, 0)
    board.finalize("success")
    assert (tmp_path / "figures/test_text.md").read_text(encoding="utf-8") == f"{printable_lines(name)}\n"
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"] == ["test/text/text_summary"]


@pytest.mark.parametrize("name", [name for name in NASTY if "\0" not in name and name != "\ud83d"])
def test_a_report_shows_a_folder_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [report.Path(name), report.Path("other")]
    for folder in folders:
        folder.mkdir()
        (folder / "metrics.csv").write_text("step,epoch,val/acc\n1,0,0.5\n2,1,0.6\n")
        (folder / "config.yaml").write_text(
            "{trainer: {}, data: {}, net: {}, task: {}, optimizer: {}, scheduler: {}, logger: {}}"
        )
        (folder / "data_report.txt").write_bytes(b"/caf\xe9\nnext")
    page = report.page(folders).encode().decode()
    assert f"<h2>{html.escape(printable(name))}</h2>" in page
    assert "/caf\\xe9\nnext" in page
