"""The arithmetic of training, what is refused before it starts, and what a resumed run remembers."""

import json
import os
import re
import shlex
import signal
import time

import lightning as L
import pytest
import torch
from conftest import PLAIN
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from resuming import with_callback

from lab import train
from lab.build import read_data
from lab.callbacks.epoch_timer import EpochTimer
from lab.engine import timing
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import UserError
from lab.engine.runs.summary import duration, metrics_table, stopped
from lab.engine.training.lightning_quirks import confine_checkpoints
from lab.optim import BiasSGD, MuonAdamW, one_cycle
from lab.runs.check import check
from lab.runs.refusals import check_lengths

QUICK = (*PLAIN, "net=mlp", "net.widths=[8]", "data.batch_size=32", "trainer=cpu", "trainer.enable_progress_bar=false")


def lab_train(*words):
    return train.main(compose_config("train", add_run_overrides([*QUICK, *words])))


def results(folder):
    return json.loads((folder / "results.json").read_text())


class Gradients(L.Callback):
    """Compares each step's gradient with that of the mean over all samples of its batches."""

    def __init__(self):
        self.batches, self.sizes, self.checked = [], [], 0

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.batches = [*(self.batches if batch_idx % trainer.accumulate_grad_batches else []), batch]

    def on_before_optimizer_step(self, trainer, task, optimizer):
        sizes = [float(task.size(batch)) for batch in self.batches]
        total = sum(task.step(batch, "train").loss * size for batch, size in zip(self.batches, sizes, strict=True))
        parameters = [p for p in task.parameters() if p.requires_grad]
        for p, expected in zip(parameters, torch.autograd.grad(total / sum(sizes), parameters), strict=True):
            torch.testing.assert_close(p.grad, expected, atol=1e-6, rtol=1e-5)
        self.sizes.append(sizes)


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ([*QUICK, "trainer.accumulate_grad_batches=3"], [3, 1]),
        ([*QUICK, "trainer.accumulate_grad_batches=8", "trainer.gradient_clip_val=0.01"], [4]),
        ([*QUICK, "trainer.accumulate_grad_batches=2"], [2, 2]),
        ([*QUICK, "trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=3"], [2, 1]),
        (["experiment=language_id", "data.tiny=true", "data.tokens_per_batch=512", "figures=false", "trainer=cpu",
          "trainer.enable_progress_bar=false", "trainer.accumulate_grad_batches=3", "net.dropout=0"], None),
    ],
    ids=str,
)  # fmt: skip
def test_a_gathered_gradient_is_the_mean_over_the_samples(tmp_path, monkeypatch, words, groups):
    gradients = Gradients()
    monkeypatch.setattr("lab.train.build_trainer", with_callback(gradients))
    train.main(compose_config("train", [*words, "trainer.max_epochs=1", f"log_dir={tmp_path}"]))
    if groups:
        assert [len(sizes) for sizes in gradients.sizes] == groups
    else:
        assert any(len(set(sizes)) > 1 for sizes in gradients.sizes), "batches of different sizes"


def test_a_run_that_stopped_early_trains_further_with_another_patience(tmp_path, capsys):
    stuck = (f"run={tmp_path}/run", "optimizer.lr=0.0", "optimizer=sgd", "scheduler=constant", "ema=null",
             "trainer.max_epochs=8")  # fmt: skip
    lab_train(*stuck, "early_stopping=2")
    assert "early_stopping=2: stopped, because val/acc did not improve on" in capsys.readouterr().out
    epochs = lambda: torch.load(tmp_path / "run/last.ckpt", weights_only=False)["epoch"]  # noqa: E731
    assert epochs() == 3
    lab_train(*stuck, "early_stopping=3")
    assert epochs() == 6
    assert "early_stopping=3: stopped" in capsys.readouterr().out
    lab_train(*stuck, "early_stopping=null")
    assert epochs() == 8


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "trainer.precision=bf16-true",
            "trainer.precision=bf16-true: not supported; choose one of 32-true, bf16-mixed",
        ),
        ("trainer.precision=16-true", "trainer.precision=16-true: not supported"),
        ("trainer.precision=64", "trainer.precision=64: not supported"),
        ("trainer.limit_test_batches=0", "trainer.limit_test_batches=0: a run ends with the test"),
        ("trainer.limit_train_batches=0.0", "trainer.limit_train_batches=0: training needs"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0: should be greater than 0"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0: should be greater"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0: should be greater"),
        ("trainer.accumulate_grad_batches=-1", "trainer.accumulate_grad_batches=-1: should be greater"),
        *(
            (f"+callbacks.x={{_target_: lightning.pytorch.callbacks.{name}{more}}}", f"callbacks.x: a run with {name}")
            for name, more in {
                "StochasticWeightAveraging": ", swa_lrs: 0.1",
                "BatchSizeFinder": "",
                "LearningRateFinder": "",
                "GradientAccumulationScheduler": ", scheduling: {0: 2}",
                "BackboneFinetuning": "",
            }.items()
        ),
    ],
)
def test_what_no_run_can_do_is_refused_before_the_data_is_read(compose, word, message):
    with pytest.raises(UserError) as caught:
        check(compose("experiment=digits", word))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.limit_val_batches=0.01"], "trainer.limit_val_batches=0.01: less than one of the"),
        (["trainer.limit_test_batches=0.001"], "trainer.limit_test_batches=0.001: less than one of the"),
        (["trainer.limit_train_batches=0.1"], "trainer.limit_train_batches=0.1: less than one of the 4 batches"),
        (["trainer.overfit_batches=0.1"], "trainer.overfit_batches=0.1: less than one of the 4 batches"),
        (["trainer.val_check_interval=100"], "trainer.val_check_interval=100: an epoch has 4 batches"),
        (["trainer.val_check_interval=3", "trainer.limit_train_batches=2"], "val_check_interval=3: an epoch has 2"),
    ],
    ids=str,
)
def test_limits_that_leave_no_batch_are_refused_before_the_training(tmp_path, words, message):
    with pytest.raises(UserError, match=f"{message}"):
        lab_train(*words, f"log_dir={tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimizer", [BiasSGD, MuonAdamW, torch.optim.AdamW])
def test_one_cycle_keeps_the_groups_learning_rates_apart(optimizer):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    named = [(name.replace("1.", "norm."), p) for name, p in net.named_parameters()]
    made = optimizer(named, lr=0.1)
    own = [group["lr"] for group in made.param_groups]
    schedule, highest = one_cycle(made, total_steps=20), [0.0 for _ in own]
    for _ in range(19):
        made.step()
        schedule.step()
        highest = [max(h, group["lr"]) for h, group in zip(highest, made.param_groups, strict=True)]
    assert highest == pytest.approx(own, rel=0.05)


def test_a_resumed_run_knows_its_last_validation(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("lab.runs.results.best_score", lambda *_: 1 / 0)  # as good as killed, after the training
        with pytest.raises(ZeroDivisionError):
            lab_train(f"run={tmp_path}/run", "trainer.max_epochs=2")
    lab_train(f"run={tmp_path}/run", "trainer.max_epochs=2")
    lab_train(f"run={tmp_path}/whole", "trainer.max_epochs=2")
    assert results(tmp_path / "run")["last"] == results(tmp_path / "whole")["last"] != {}


def test_a_run_that_learns_one_batch_by_heart_is_not_resumed(tmp_path):
    lab_train(f"run={tmp_path}/run", "trainer.overfit_batches=1", "trainer.max_epochs=1")
    with pytest.raises(UserError, match="trainer.overfit_batches=1: such a run cannot be resumed exactly"):
        lab_train(f"run={tmp_path}/run", "trainer.overfit_batches=1", "trainer.max_epochs=2")


def test_a_log_gets_a_line_for_each_epoch(tmp_path, capsys):
    """The line has the metrics of validation if the epoch had one."""
    lab_train(f"log_dir={tmp_path}", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    train, val, left = (
        r"epoch {}/3  train/acc \S+  train/loss \S+",
        r"  val/acc \S+  val/f1 \S+  val/loss \S+",
        r"  \S+ s",
    )
    assert re.fullmatch(train.format(1) + left + r"  about \S+ s left", lines[0])
    assert re.fullmatch(train.format(2) + val + left + r"  about \S+ s left", lines[1])
    assert re.fullmatch(train.format(3) + left, lines[2])
    assert len(lines) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["run", "a run, of 'mine'", "$(x)`y`"])
def test_a_stopped_run_says_how_to_resume_it(tmp_path, capsys, monkeypatch, number, name):
    if name != "run":  # the words are not parsed again
        text = "\n".join(stopped(tmp_path / name, 128 + number))
    else:
        monkeypatch.setattr(EpochTimer, "on_train_batch_end", lambda *_: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit):
            lab_train(f"run={tmp_path / name}")
        text = capsys.readouterr().out
        assert f"Stopped by {number.name}; {tmp_path}/run/last.ckpt is kept. To resume:" in text
    assert shlex.split(text.splitlines()[-1]) == ["lab", "train", f"run={tmp_path / name}"]


def test_a_run_that_cannot_be_resumed_says_so_when_it_starts_and_stops(tmp_path, capsys):
    lab_train(f"run={tmp_path}/run", "trainer.overfit_batches=2", "trainer.max_epochs=1")
    assert "with trainer.overfit_batches=2 it cannot be resumed" in capsys.readouterr().out
    (line,) = stopped(tmp_path, 130, can_resume=False)
    assert "lab train" not in line


def test_a_slow_stage_is_announced_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(timing, "PATIENCE", 0.05)
    with timing.announced("Decoding 3 images"):
        time.sleep(0.2)
    with timing.announced("Nothing"):
        pass
    assert capsys.readouterr().out == "Decoding 3 images ...\nDecoding 3 images: 0 s\n"


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["cat", "dog"], "cat 0.500  dog 0.500"),
        (["a very long class name", "b"], "a very long class name 0.500                       b 0.500"),
        (["x" * 40, "\x1b[2J"], "x" * 24 + " 0.500  " + r"\x1b[2J".rjust(24) + " 0.500"),
        (["一二三四五六七八九十一二三四"], "一二三四五六七八九十一二三四 0.500"),
    ],
)
def test_class_names_are_shown_whole_up_to_24_characters(names, shown):
    lines = metrics_table({"test/acc": 0.5} | {f"test/acc/{name}": 0.5 for name in names})
    assert lines[-1] == shown


@pytest.mark.parametrize(("value", "text"), [(3.21, "3.2 s"), (75, "75 s"), (600, "10 min"), (9000, "2 h 30 min")])
def test_a_duration_is_said_as_people_do(value, text):
    assert duration(value) == text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["trainer.limit_val_batches=0.3", "data.batch_size=8"],
            "one of the 2 batches of the val split in each",
        ),
        (["trainer.val_check_interval=3"], "val_check_interval=3: an epoch has 2 batches in each process"),
        (
            ["trainer.val_check_interval=2", "trainer.num_nodes=2"],
            "=2: an epoch has 1 batches in each",
        ),
        (
            ["trainer.limit_train_batches=0.3"],
            "limit_train_batches=0.3: less than one of the 2 batches of the train split",
        ),
    ],
)
def test_limits_are_those_of_each_process(compose, words, problem):
    cfg = compose("experiment=digits", "data.tiny=true", "data.augment=null", "data.batch_size=32", *words)
    data = read_data(cfg)
    check_lengths(OmegaConf.merge(cfg, {"trainer": {"devices": 1, "num_nodes": 1}}), data)
    cfg.trainer.devices, cfg.trainer.strategy = 2, "ddp"
    with pytest.raises(UserError, match=problem):
        check_lengths(cfg, data)
    assert data.rank_and_size() == (0, 1)


@pytest.mark.parametrize(
    ("name", "kept"),
    {
        "epoch=1-val/acc=0.90.ckpt": "epoch=1-val/acc=0.90.ckpt",
        "a.ckpt": "a.ckpt",
        "a/b/c.ckpt": "a/b/c.ckpt",
        "../victim.ckpt": "",
        "a/../../victim.ckpt": "",
        "/elsewhere/victim.ckpt": "",
        "a": "",
    }.items(),
)
def test_a_checkpoint_of_a_configs_own_is_found_again_where_it_was(name, kept, tmp_path):
    callback = ModelCheckpoint(filename="x", monitor="val/acc", save_top_k=2)
    confine_checkpoints(callback, tmp_path / "now")
    there = os.path.join("/then/run", name)
    state = callback.state_dict() | {"dirpath": "/then/run", "best_k_models": {there: torch.tensor(1.0)}}
    callback.load_state_dict(state | {"best_model_path": there})
    expected = str(tmp_path / "now" / kept) if kept else ""
    assert callback.best_model_path == expected
    assert list(callback.best_k_models) == [expected] * bool(kept)
