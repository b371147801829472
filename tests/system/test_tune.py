"""The learning-rate and batch-size finders: what they suggest, and that memory ends no more than a trial."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import TINY
from tables import read_rows

from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.verbs.tune import curves, finders
from lab.verbs.tune import main as tune

SMALL = f"{TINY} data.tiny=false data.image_size=8 net.widths=[64]"


def points(folder):
    (path,) = folder.glob("logs/digits/tune/*/*.csv")
    rows = read_rows(path)
    assert path.with_suffix(".png").stat().st_size > 10_000
    return rows


def test_a_learning_rate_is_found_drawn_and_makes_no_run(lab, tmp_path):
    result = lab("tune", "experiment=digits", *SMALL.split())
    assert result.returncode == 0, result.stderr
    suggestion = float(result.stdout.split()[0].removeprefix("optimizer.lr="))
    assert 1e-3 < suggestion < 0.3
    rows = points(tmp_path)
    assert float(rows[0]["lr"]) == pytest.approx(1e-6)
    assert 2 < float(rows[0]["loss"]) < 3
    assert "tune" not in lab("runs").stdout
    assert lab("train", "experiment=digits", *SMALL.split(), f"optimizer.lr={suggestion}").returncode == 0


@pytest.mark.parametrize("optimizer", ["bias_sgd", "muon"])
@pytest.mark.parametrize("scheduler", ["one_cycle", "triangle"])
def test_the_groups_of_an_optimizer_keep_their_ratio(optimizer, scheduler, monkeypatch):
    words = ["net.widths=[8,8]", "net.batch_norm=true", f"optimizer={optimizer}", f"scheduler={scheduler}"]
    cfg = compose_config("tune", ["experiment=digits", *TINY.split(), *words, "lr.steps=20"])
    own = tune.take_settings(cfg)
    filter_warnings()
    monkeypatch.setattr(finders.memory, "limit", lambda device, gigabytes: None)
    seen, ratios = [], []
    right = torch.optim.Optimizer.zero_grad

    def zero_grad(optimizer, *args, **kwargs):
        rates = [group["lr"] for group in optimizer.param_groups]
        ratios.append(rates[-1] / rates[0])
        return right(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", zero_grad)
    finders.find_lr(cfg, own, seen.append)
    assert len(seen) == 20
    assert len(ratios) >= 20
    assert ratios[1:] == pytest.approx([64 if optimizer == "bias_sgd" else 1] * (len(ratios) - 1))


def test_the_suggestion_is_before_the_lowest_loss_and_an_explosion_does_not_move_it():
    lrs = [10 ** (-6 + 0.07 * i) for i in range(100)]
    losses = [2.3 - 0.2 * math.exp(-((math.log10(lr) + 3) ** 2)) * (5 + i % 2) for i, lr in enumerate(lrs)]
    assert 2e-4 < curves.suggest(lrs, losses) < 1e-3
    losses[80:] = [1e9, math.nan, math.inf] * 6 + [1e30, 1.0]
    assert 2e-4 < curves.suggest(lrs, losses) < 1e-3
    with pytest.raises(RunError, match="the loss falls by less than 5 %"):
        curves.suggest(lrs, [2.3] * 100)


def test_batch_sizes_end_below_the_limit_of_memory_and_of_the_data(lab, tmp_path):
    wide = ["net=cnn", "data.image_size=64", "data.batch_size=32"]
    words = [word for word in SMALL.split() if not word.startswith(("net", "data.image_size"))]
    more = ["find=batch_size", "memory_gb=0.8", "batch_size.min=32", "batch_size.steps=2"]
    result = lab("tune", "experiment=digits", *words, *wide, *more)
    assert result.returncode == 0, result.stderr
    assert "out of memory" in result.stdout
    rows = points(tmp_path)
    assert all(float(row["peak_gb"]) < 0.85 for row in rows)
    assert f"data.batch_size={rows[-1]['batch_size']}  is the largest that fits" in result.stdout
    assert 32 <= int(rows[-1]["batch_size"]) < 512


def test_a_batch_holds_no_more_than_all_training_samples(lab, tmp_path):
    result = lab("tune", "experiment=digits", *TINY.split(), "find=batch_size", "batch_size.min=64")
    assert result.returncode == 0, result.stderr
    assert "the whole training split" in result.stdout
    assert int(points(tmp_path)[-1]["batch_size"]) < 200


@pytest.mark.parametrize("find", ["lr", "batch_size"])
def test_too_little_memory_for_anything_is_said_in_a_line(lab, find):
    words = ["net=mlp", "net.widths=[30000,30000]", f"find={find}", "memory_gb=1", "trainer=cpu", "data.tiny=true"]
    result = lab("tune", "experiment=digits", *words)
    assert result.returncode == 1, result.stdout
    assert "error: data.batch_size=" in result.stderr
    assert "out of memory" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_loss_that_is_no_number_at_first_gives_no_suggestion():
    with pytest.raises(RunError, match="before any training"):
        curves.suggest([10**-n for n in range(20)], [float("nan")] * 20)


def test_batches_that_are_gathered_for_a_step_are_one_point(monkeypatch):
    cfg = compose_config(
        "tune", ["experiment=digits", *TINY.split(), "lr.steps=20", "trainer.accumulate_grad_batches=2"]
    )
    own, seen = tune.take_settings(cfg), []
    filter_warnings()
    monkeypatch.setattr(finders.memory, "limit", lambda device, gigabytes: None)
    finders.find_lr(cfg, own, seen.append)
    rates, losses = curves.by_step(seen)
    assert len(seen) > 1.5 * len(rates)
    assert len(rates) == len(losses) >= 19  # Lightning leaves one out
    assert all(a < b for a, b in pairwise(rates))
