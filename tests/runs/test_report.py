"""One HTML page about runs, which needs nothing else."""

import base64
import html
import io
import re
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from lab import train
from lab.engine.config.compose import compose_config
from lab.engine.display import drawn, printable
from lab.engine.errors import UserError
from lab.engine.markdown import parse_table
from lab.engine.training.lightning_quirks import filter_warnings
from lab.figures.classification import classes
from lab.verbs import report
from lab.verbs.report import curves_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two runs: one with figures, and one with another learning rate."""
    filter_warnings()
    folders = [tmp_path_factory.mktemp(name) / name for name in ("one", "other")]
    more = ["figures=true", "optimizer.lr=0.02"], ["figures=false", "optimizer.lr=0.002"]
    for folder, words in zip(folders, more, strict=True):
        words = ["experiment=digits", "data.tiny=true", "net=mlp", "net.widths=[8]", "trainer.max_epochs=2", *words]
        train.main(
            compose_config("train", [*words, "trainer=cpu", "trainer.enable_progress_bar=false", f"run={folder}"])
        )
    return folders


@pytest.fixture
def runs(finished, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in finished]


def test_a_page_has_scores_differences_curves_and_figures_and_asks_for_no_other_file(runs, tmp_path, capsys):
    report.main([*(f"run={run}" for run in runs), f"output={tmp_path}/both.html"])
    assert capsys.readouterr().out.strip() == f"{tmp_path}/both.html"
    page = (tmp_path / "both.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "://" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    differences = page.partition("Differences")[2].partition("</table>")[0]
    assert re.findall(r"<td>([\w.]+)</td>", differences.replace("<tr>", "\n"))[0::3] == ["figures", "optimizer.lr"]
    names = re.findall(r'<img alt="([^"]+)"', page)
    assert names[:3] == ["val/loss", "val/acc", "val/f1"]
    assert {"test confusion", "val reliability", "train samples"} <= set(names)
    for data in re.findall(r"base64,([^\"]+)", page):
        Image.open(io.BytesIO(base64.b64decode(data))).verify()

    report.main([f"run={runs[0]}"])
    alone = (runs[0] / "report.html").read_text()
    assert "Differences" not in alone
    shutil.move(runs[0] / "report.html", tmp_path / "moved.html")


def test_what_a_run_says_is_text_and_no_page_of_its_own(runs):
    config = runs[0] / "config.yaml"
    config.write_text(config.read_text() + "\nnote: '<script>alert(1)</script>'\n")
    report.main([f"run={runs[0]}"])
    page = (runs[0] / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


NASTY = ["a|b", "back\\", "\\|", "<b>&lt;", " a  b ", "*`_", "caf\udce9", "\x1b[2J", "two\nlines", "---", "$x$", ""]


def test_a_page_has_the_scores_of_each_class_whatever_it_is_called(tmp_path):
    label = torch.arange(len(NASTY)).repeat(3)
    text = classes(label, label, NASTY)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/test_classes.md").write_text(f"{text}\n", encoding="utf-8")
    (page,) = report.texts_of(tmp_path)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in page.split("<tr>")[2:]]
    assert rows == [[html.escape(printable(name)), "1.000", "1.000", "1.000", "3"] for name in NASTY]
    assert parse_table(text)[0] == ["class", "precision", "recall", "F1", "samples"]


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "run=nowhere": "run=nowhere: expected the folder of a run",
        "rum=x": "unknown key rum. Did you mean run?",
        "output=x.html": "run is required",
        "run=latest": "run=latest: there is no run in logs",
    }.items(),
)
def test_a_mistake_is_said_in_a_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        report.main(words.split())


@pytest.mark.parametrize("names", [("cost$5_to_$7", "_hidden"), ("a$b", "$x^"), ("__", "\\frac{")], ids=str)
def test_names_stand_in_the_legend_as_they_are(names, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.legend",
        lambda axis, *args, legend=Axes.legend, **kwargs: shown.append(legend(axis, *args, **kwargs)) or shown[-1],
    )
    monkeypatch.chdir(tmp_path)
    for name in names:
        Path(name).mkdir()
        Path(name, "metrics.csv").write_text("step,epoch,val/acc\n1,0,0.5\n")
    assert len(list(curves_of([Path(name) for name in names]))) == 1
    assert [text.get_text() for text in shown[0].get_texts()] == [drawn(f"run {name}") for name in names]
