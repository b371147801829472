"""A run goes on as if it had never been stopped. `make chaos` kills it at every batch; here it is stopped at a few."""

import json
import os
import shutil
import signal
from functools import cache

import pytest
import torch
from resuming import lab_train, outcome, resume, saved, stopped

from lab.engine.errors import UserError
from lab.engine.runs import checkpoints
from lab.tasks.base import Step
from lab.tasks.classification import Classification
from lab.testing.tasks import same


@pytest.mark.parametrize(
    ("batch", "number", "words"),
    [
        (2, signal.SIGKILL, []),
        (7, signal.SIGKILL, ["ema=0.9", "optimizer=muon"]),
        (6, signal.SIGKILL, ["trainer.accumulate_grad_batches=3"]),
        (5, signal.SIGTERM, ["trainer.val_check_interval=0.5", "scheduler=constant"]),
        (11, signal.SIGINT, ["ema=0.9"]),
    ],
    ids=str,
)
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, batch, number, words):
    lab_train(f"run={tmp_path}/whole", *words)
    stopped(batch, number, f"run={tmp_path}/cut", *words)
    status = json.loads((tmp_path / "cut/results.json").read_text())["status"]
    assert status == ("failed" if number == signal.SIGKILL else "interrupted")
    lab_train(f"run={tmp_path}/cut", *words)
    for part, other in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"), strict=True):
        assert same(part, other)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "cut")]
    assert results[0]["best"] == results[1]["best"]
    assert results[0]["test"] == results[1]["test"]
    assert len(json.loads((tmp_path / "cut/stamp.json").read_text())["resumed"]) == 1


def test_the_parts_of_a_stopped_epoch_and_what_its_steps_draw_are_the_same(tmp_path, monkeypatch):
    step = Classification.step

    def drawing(task, batch, stage):
        whole, noise = step(task, batch, stage), task.normal(batch, stage, 10)
        broken = (batch["index"] == 5).any() and stage == "train"  # one step of each epoch is left out
        parts = {"noise": noise.square().mean(), "ce": whole.loss}
        loss = torch.nn.functional.cross_entropy(whole.outputs["preds"] + noise, batch["label"])
        return Step(
            loss * torch.nan if broken else loss, parts, whole.outputs | {"preds": whole.outputs["preds"] + noise}
        )

    monkeypatch.setattr(Classification, "step", drawing)
    words = ["not_finite=skip", "monitor.metric=val/loss/ce", "monitor.mode=min", "net.widths=[8]"]
    lab_train(f"run={tmp_path}/whole", *words)
    stopped(6, signal.SIGTERM, f"run={tmp_path}/cut", *words)
    lab_train(f"run={tmp_path}/cut", *words)
    outcomes = [outcome(tmp_path / name) for name in ("whole", "cut")]
    for _, rows in outcomes:
        for row in rows:
            row.pop(
                "skipped_steps"
            )  # Lightning logs the last value again until the epoch ends; a resumed one forgets it
    assert same(*outcomes)
    for name in ("train/loss", "train/loss/noise", "val/loss/ce"):
        assert len({float(row[name]) for row in rows if row[name]}) == 3, name
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "cut")]
    assert results[0]["best"] == results[1]["best"]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["best"]["value"] == pytest.approx(results[0]["best"]["metrics"]["val/loss/ce"], rel=1e-6)


def test_an_unknown_part_is_not_monitored(tmp_path):
    with pytest.raises(UserError, match=r"monitor.metric: unknown metric val/loss/kl. Did you mean val/loss\?"):
        lab_train(f"run={tmp_path}/run", "monitor.metric=val/loss/kl", "net.widths=[8]")


def test_an_error_leaves_a_file_that_says_where(tmp_path):
    stopped(5, signal.SIGKILL, f"run={tmp_path}/cut")
    text = (tmp_path / "cut/crash.txt").read_text()
    assert "epoch 1, batch 1, step 5" in text
    assert "as good as killed" in text
    assert "widths:" in text, "the config"
    assert not {"last.ckpt", "previous.ckpt"} - {path.name for path in (tmp_path / "cut").iterdir()}


def test_a_limit_in_the_middle_of_an_epoch_counts_the_epoch_that_has_begun(tmp_path):
    stopped(6, signal.SIGTERM, f"run={tmp_path}/run")
    before = saved(tmp_path / "run")
    for word in ("trainer.max_epochs=1", "trainer.max_steps=5"):
        with pytest.raises(UserError, match=f"{word}: .* has already trained (2 epochs|7 steps)"):
            resume(tmp_path / "run", word)
    assert saved(tmp_path / "run") == before


@pytest.mark.parametrize("move", [os.rename, shutil.copytree])
def test_a_run_that_was_moved_ends_as_one_that_was_not(move, tmp_path):
    """Its best score was reached before, in the first epoch, and is not forgotten."""
    words = ["monitor={metric: val/acc, mode: min}", "optimizer.lr=0.05", "trainer.max_epochs=4"]
    lab_train(*words, f"run={tmp_path}/whole")
    stopped(9, signal.SIGTERM, *words, f"run={tmp_path}/old")
    (tmp_path / "elsewhere").mkdir()
    move(tmp_path / "old", tmp_path / "elsewhere/new")
    resume(tmp_path / "elsewhere/new")
    assert same(*(outcome(tmp_path / name) for name in ("whole", "elsewhere/new")))
    best = [json.loads((tmp_path / name / "results.json").read_text())["best"] for name in ("whole", "elsewhere/new")]
    assert best[0] == best[1]
    weights = [checkpoints.read(tmp_path / name / "best.ckpt")["state_dict"] for name in ("whole", "elsewhere/new")]
    assert same(*weights)


def test_a_checkpoint_names_no_files(tmp_path):
    """Lightning removes what its state names as the former best."""
    stopped(6, signal.SIGTERM, f"run={tmp_path}/run")
    (tmp_path / "victim").mkdir()
    last = tmp_path / "run/last.ckpt"
    content = torch.load(last, weights_only=True)
    assert str(tmp_path) not in repr(content["callbacks"]), "it holds paths of the machine that wrote it"
    (key,) = [key for key in content["callbacks"] if key.startswith("BestCheckpoint")]
    victim = f"{tmp_path}/run/../victim"
    content["callbacks"][key] |= {
        "best_k_models": {victim: torch.tensor(-1.0)}, "kth_best_model_path": victim, "best_model_path": victim,
        "kth_value": torch.tensor(-1.0), "dirpath": f"{tmp_path}/run", "last_model_path": victim,
    }  # fmt: skip
    torch.save(content, last)
    checkpoints.seal(last)
    lab_train(f"run={tmp_path}/run")
    assert (tmp_path / "victim").is_dir()


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys):
    lab_train(f"run={tmp_path}/whole")
    stopped(9, signal.SIGKILL, f"run={tmp_path}/cut")
    last = tmp_path / "cut/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    capsys.readouterr()
    lab_train(f"run={tmp_path}/cut")
    assert capsys.readouterr().err.count(f"warning: {last} is damaged") == 1
    assert same(*(outcome(tmp_path / name) for name in ("whole", "cut")))


@pytest.fixture
def requeued(tmp_path, monkeypatch):
    """A batch job of SLURM; the requests that it would get."""
    calls = []
    requeue = cache(lambda: calls.append("requeued"))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("ENVIRONMENT", "BATCH")
    for module in ("lab.engine.launch.signals", "lab.callbacks.resume_checkpoint"):
        monkeypatch.setattr(f"{module}.requeue", requeue)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_slurm_job_that_is_started_again_goes_on(tmp_path, requeued):
    stopped(5, signal.SIGUSR1)
    assert requeued == ["requeued"]
    (folder,) = (tmp_path / "logs/digits").glob("slurm-17_*")
    lab_train()
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"
    assert [path.name for path in (tmp_path / "logs/digits").iterdir()] == [folder.name]


def test_a_slurm_job_that_is_warned_while_it_does_not_train_is_started_again_too(monkeypatch, requeued):
    monkeypatch.setattr("lab.runs.results.restore", lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit):
        lab_train("trainer.max_epochs=1")
    assert requeued == ["requeued"]
