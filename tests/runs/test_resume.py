"""A run goes on as if it had never been stopped. `make chaos` kills it at every batch; here it is stopped at a few."""

import contextlib
import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
from functools import cache
from pathlib import Path
from unittest.mock import MagicMock

import lightning as L
import pytest
import torch
from conftest import PLAIN
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lab import runs, train
from lab.build import build_trainer
from lab.engine import lock
from lab.engine.config.compose import CONF, compose_config, compose_inside_job
from lab.engine.config.run_overrides import add_run_overrides, resolve_latest
from lab.engine.config_file import write_config
from lab.engine.errors import UserError
from lab.engine.files import write_json
from lab.engine.runs import checkpoints
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs import check
from lab.runs.open import Run
from lab.tasks.base import Step
from lab.tasks.classification import Classification
from lab.train import prepare
from lab.verbs import runs as runs_main

NUM_BATCHES = 4
QUICK = (
    *PLAIN, "net=mlp", "net.dropout=0.3", "net.batch_norm=true", "data.batch_size=32", "trainer.max_epochs=3",
    "trainer=cpu", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=1",
)  # fmt: skip


def lab_train(*words):
    return train.main(compose_config("train", add_run_overrides([*QUICK, *words])))


class StopAt(L.Callback):
    def __init__(self, batch, number):
        self.batch, self.number = batch, number

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.current_epoch * NUM_BATCHES + batch_idx == self.batch:
            if self.number == signal.SIGKILL:
                raise RuntimeError("as good as killed: nothing is saved after this")
            os.kill(os.getpid(), self.number)


@pytest.fixture
def stopped(monkeypatch):
    """Train until a signal arrives at a batch."""

    def stopped(batch, number, *words):
        build = build_trainer

        def with_stop(*args):
            trainer = build(*args)
            trainer.callbacks.append(StopAt(batch, number))
            return trainer

        with monkeypatch.context() as patch:
            patch.setattr("lab.train.build_trainer", with_stop)
            if number == signal.SIGKILL:
                with pytest.raises(RuntimeError, match="as good as killed"):
                    lab_train(*words)
            else:
                with pytest.raises(SystemExit) as stop:
                    lab_train(*words)
                assert stop.value.code == 128 + number

    return stopped


def outcome(folder):
    """The result of a training: weights, optimizer and averages, and the table of metrics."""
    last = checkpoints.read(folder / "last.ckpt")
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    return {name: last.get(name) for name in names}, rows


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_another_net_inside_a_net_is_refused_as_any_other_change(tmp_path):
    words = ["experiment=fashion_mnist", "data.tiny=true", "trainer=cpu"]
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, compose_config("train", words))
    write_json(folder / "stamp.json", {"overrides": words})
    for word, key in (("net@net.net=mlp", "net.net.batch_norm"), ("net.net.widths=[4,4,8,8]", "net.net.widths")):
        with pytest.raises(UserError, match=f"{key} cannot change when"):
            resume(folder, word)


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
def test_a_stopped_run_ends_as_one_that_was_not(stopped, tmp_path, batch, number, words):
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


def test_the_parts_of_a_stopped_epoch_and_what_its_steps_draw_are_the_same(stopped, tmp_path, monkeypatch):
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


def test_an_error_leaves_a_file_that_says_where(stopped, tmp_path):
    stopped(5, signal.SIGKILL, f"run={tmp_path}/cut")
    text = (tmp_path / "cut/crash.txt").read_text()
    assert "epoch 1, batch 1, step 5" in text
    assert "as good as killed" in text
    assert "widths:" in text, "the config"
    assert not {"last.ckpt", "previous.ckpt"} - {path.name for path in (tmp_path / "cut").iterdir()}


def test_a_finished_run_says_so_and_does_nothing(tmp_path, capsys):
    best = lab_train(f"run={tmp_path}/run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert lab_train(f"run={tmp_path}/run") == best
    assert "is finished" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_finished_run_goes_on_for_longer(tmp_path):
    lab_train(f"run={tmp_path}/run", "scheduler=one_cycle", "optimizer.lr=0.01")
    train.main(compose_config("train", add_run_overrides([f"run={tmp_path}/run", "trainer.max_epochs=5"])))
    assert checkpoints.read(tmp_path / "run/last.ckpt")["global_step"] == 5 * NUM_BATCHES
    cfg, _, _ = runs.load(tmp_path / "run")
    assert (cfg.trainer.max_epochs, cfg.net.dropout) == (5, 0.3)
    stamp = json.loads((tmp_path / "run/stamp.json").read_text())
    assert stamp["resumed"][0]["changes"] == {"trainer.max_epochs": 5}
    steps = [int(row["step"]) for row in outcome(tmp_path / "run")[1] if row["val/loss"]]
    assert steps == [NUM_BATCHES * epoch - 1 for epoch in range(1, 6)]


def resume(folder, *words):
    return train.main(compose_config("train", add_run_overrides([f"run={folder}", *words])))


def saved(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run of at most 8 epochs whose training stopped early, after 3: its weights stay as they are."""
    folder = tmp_path_factory.mktemp("early") / "run"
    lab_train(f"run={folder}", "early_stopping=2", "optimizer.lr=1e-12", "trainer.max_epochs=8", "net.batch_norm=false")
    assert checkpoints.read(folder / "last.ckpt")["epoch"] == 3
    return folder


@pytest.mark.parametrize("word", ["trainer.max_epochs=2", "trainer.max_epochs=1", "trainer.max_steps=11"])
def test_a_limit_that_is_passed_already_is_refused_before_anything_is_written(word, early):
    before = saved(early)
    with pytest.raises(UserError, match=f"{word}: .* has already trained (3 epochs|12 steps)"):
        resume(early, word)
    assert saved(early) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "a larger trainer.max_epochs"),
        (["trainer.max_epochs=20"], "it stopped early; a larger early_stopping"),
        (["trainer.max_steps=100"], "it stopped early; a larger early_stopping"),
        (["trainer.max_epochs=20", "early_stopping=1"], "it stopped early; a larger early_stopping"),
        (["trainer.max_epochs=3", "early_stopping=null"], "trainer.max_epochs=3 is reached"),
        (["trainer.max_steps=12", "early_stopping=3"], "trainer.max_steps=12 is reached"),
        (["trainer.max_time=00:10:00:00"], "it stopped early; a larger early_stopping"),
    ],
)
def test_a_run_that_has_nothing_left_says_why_and_does_nothing(words, why, early, capsys):
    before = saved(early)
    resume(early, *words)
    assert f"is finished: {why}" in capsys.readouterr().out
    assert saved(early) == before


@pytest.mark.parametrize("killed", [False, True])
def test_another_patience_and_more_epochs_train_further(killed, early, tmp_path):
    folder = shutil.copytree(early, tmp_path / "run")
    if killed:  # while it was tested: the checkpoint is that of a training that ended
        (folder / "results.json").write_text('{"status": "running"}')
        resume(folder, "trainer.max_epochs=9")
        assert checkpoints.read(folder / "last.ckpt")["epoch"] == 3, "as an unbroken run with 9 epochs"
        return
    resume(folder, "early_stopping=null", "trainer.max_epochs=5")
    assert checkpoints.read(folder / "last.ckpt")["epoch"] == 5


def test_a_limit_in_the_middle_of_an_epoch_counts_the_epoch_that_has_begun(stopped, tmp_path):
    stopped(6, signal.SIGTERM, f"run={tmp_path}/run")
    before = saved(tmp_path / "run")
    for word in ("trainer.max_epochs=1", "trainer.max_steps=5"):
        with pytest.raises(UserError, match=f"{word}: .* has already trained (2 epochs|7 steps)"):
            resume(tmp_path / "run", word)
    assert saved(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("began", "steps"),
    [
        (["early_stopping=2"], [("early_stopping=null", None), ("early_stopping=2", 2), ("early_stopping=3", 3)]),
        (["checkpoint.every_n_steps=4"], [("checkpoint.every_n_steps=2", 2), ("checkpoint.every_n_steps=4", 4)]),
        (["experiment=image_folder", "data.root=/a"], [("data.root=/b", "/b"), ("data.root=/a", "/a")]),
        (["trainer=cpu"], [("trainer.strategy=ddp", "ddp"), ("trainer=cpu", "auto")]),
        (["trainer.max_epochs=3"], [("trainer.max_epochs=9", 9), ("trainer.max_epochs=3", 3)]),
    ],
    ids=str,
)
def test_a_value_can_be_changed_back(began, steps, tmp_path):
    """In a process of each resume's own the words would be typed; here they are composed."""
    from lab.runs.resume import merge_config, record_resume

    words = ["experiment=digits", "trainer=cpu", *began]
    write_json(tmp_path / "stamp.json", {"overrides": words})
    write_config(tmp_path, compose_config("train", words))
    for word, value in steps:
        cfg, changes = merge_config(compose_config("train", add_run_overrides([f"run={tmp_path}", word])), tmp_path)
        record_resume(cfg, changes, tmp_path)
        key = {"trainer=cpu": "trainer.strategy"}.get(word, word.partition("=")[0])
        assert OmegaConf.select(OmegaConf.load(tmp_path / "config.yaml"), key) == value
        assert changes == {key: value}
        _, none = merge_config(compose_config("train", add_run_overrides([f"run={tmp_path}"])), tmp_path)
        assert none == {}


@pytest.mark.parametrize("word", ["optimizer.lr=0.5", "net.widths=[8]", "seed=3", "data.batch_size=16"])
def test_what_a_run_began_with_stays(tmp_path, word):
    lab_train(f"run={tmp_path}/run", "trainer.max_epochs=1")
    with pytest.raises(
        UserError, match=r"cannot change when .* is resumed; it was .*These keys may change: trainer.max_epochs"
    ):
        train.main(compose_config("train", add_run_overrides([f"run={tmp_path}/run", word])))


def test_the_latest_run_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run=latest: there is no run in logs"):
        resolve_latest(["run=latest"])
    for began, name in enumerate(["digits/a", "one", "sweep/x/000", ".archive/b", "digits/new/.hidden"]):
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "stamp.json").write_text(json.dumps({"began": began, "overrides": []}))
        os.utime(folder / "stamp.json", (-began, -began))  # a copy's times say nothing
        newest = "sweep/x/000" if began >= 2 else name
        assert resolve_latest(["run=latest"]) == [f"run=logs/{newest}"]
    assert resolve_latest(["run=latest", "log_dir=logs/digits"]) == ["run=logs/digits/a", "log_dir=logs/digits"]
    for key in ("finetune", "warm_start"):
        assert resolve_latest([f"{key}=latest", "net=latest"]) == [f"{key}=logs/sweep/x/000", "net=latest"]
    assert resolve_latest(["run='latest'", "log_dir=logs/one"]) == ["run=logs/one", "log_dir=logs/one"]
    assert runs_main.path_below("latest", Path("logs")) == "sweep/x/000"
    for verb in ("test", "predict", "serve", "explain", "export"):
        assert compose_config(verb, ["run=latest", "log_dir=x"]).log_dir == "x"
    (tmp_path / "logs/one/stamp.json").write_text('{"began": "x"}')
    assert resolve_latest(["run=latest"]) == ["run=logs/sweep/x/000"], "a damaged stamp hides no other run"


@pytest.mark.parametrize("move", [os.rename, shutil.copytree])
def test_a_run_that_was_moved_ends_as_one_that_was_not(move, stopped, tmp_path):
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


def test_a_checkpoint_names_no_files(stopped, tmp_path):
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


@pytest.mark.parametrize("names", [[], [".lock"], [".lock", "data.json"], ["stamp.json", ".config.yaml.7.tmp"],
                                   [".lock", "data.json", "git.diff", "stamp.json"]])  # fmt: skip
def test_a_folder_that_was_half_made_is_a_new_run(names, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{")
    assert add_run_overrides([f"run={folder}"]) == [f"run={folder}"]
    with lock.locked(folder, is_new=True):
        assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["notes.txt", "best.ckpt", "stamp.json.bak", "figures"])
def test_a_folder_of_something_else_is_no_new_run(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match="the folder is not empty and holds no run"):
        add_run_overrides([f"run={tmp_path}"])


def test_the_second_start_in_a_folder_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    cfg = compose_config("train", [*QUICK, "seed=2", f"run={folder}"])
    with forked_lock(folder):
        before = contents(folder)
        with pytest.raises(UserError, match="another process is training in"):
            train.main(cfg)
        assert contents(folder) == before
    (folder / "config.yaml").touch()  # the first has made a run of it in the meantime
    with pytest.raises(UserError, match="another process has just started a run"), lock.locked(folder, is_new=True):
        pass


@contextlib.contextmanager
def forked_lock(folder):
    """Another process holds the lock. A process never finds its own lock held."""
    context = multiprocessing.get_context("fork")
    has, end = context.Event(), context.Event()

    def hold():
        with lock.locked(folder):
            has.set()
            end.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert has.wait(30)
    try:
        yield
    finally:
        end.set()
        process.join()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("number", "held"), [(errno.EAGAIN, True), (errno.EACCES, True), (errno.ENOLCK, False),
                                              (errno.ENOSYS, False), (errno.EOPNOTSUPP, False)])  # fmt: skip
def test_a_file_system_without_locks_is_not_another_process(number, held, tmp_path, monkeypatch, capsys):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with pytest.raises(UserError, match="another process") if held else contextlib.nullcontext(), lock.locked(tmp_path):
        pass
    assert ("cannot be locked" in capsys.readouterr().err) != held


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_taken(stopped, tmp_path, capsys):
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


def test_two_do_not_train_in_one_folder(tmp_path):
    lab_train(f"run={tmp_path}/run", "trainer.max_epochs=1")
    fork = multiprocessing.get_context("fork")
    held, done = fork.Event(), fork.Event()

    def hold():
        with lock.locked(tmp_path / "run"):
            held.set()
            done.wait(60)

    other = fork.Process(target=hold)
    other.start()
    held.wait(60)
    with pytest.raises(UserError, match="another process is training in"):
        train.main(compose_config("train", add_run_overrides([f"run={tmp_path}/run", "trainer.max_epochs=2"])))
    done.set()
    other.join()


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


def test_a_slurm_job_that_is_started_again_goes_on(stopped, tmp_path, requeued):
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


def test_fine_tuning_takes_the_weights_and_warm_starting_the_optimizer_too(tmp_path):
    lab_train(f"run={tmp_path}/first", "trainer.max_epochs=1")
    best = checkpoints.read(tmp_path / "first/best.ckpt")
    tasks = {}
    for key in ("finetune", "warm_start"):
        cfg = compose_config("train", [*QUICK, f"{key}={tmp_path}/first"])
        _, tasks[key] = prepare(Run(cfg))
        name = "net.layers.1.weight"
        assert tasks[key].state_dict()[name].equal(best["state_dict"][name])
    assert tasks["finetune"].optimizer_state is None
    moments = tasks["warm_start"].optimizer_state[0]["exp_avg"]
    assert moments.equal(best["optimizer_states"][0]["state"][0]["exp_avg"])


def test_a_fine_tuned_head_is_new_where_the_classes_are_others(tmp_path, capsys):
    lab_train(f"run={tmp_path}/first", "trainer.max_epochs=1")
    shutil.rmtree(tmp_path / "second", ignore_errors=True)
    cfg = compose_config("train", [*QUICK, "data=cifar100", "data.tiny=true", f"finetune={tmp_path}/first"])
    prepare(Run(cfg))
    assert "newly initialized: " in capsys.readouterr().out


@pytest.mark.parametrize("key", ["finetune", "warm_start"])
@pytest.mark.parametrize("link", ["a file", "a chain", "a run's folder"])
def test_weights_may_come_from_a_cache_of_links(key, link, tmp_path, early):
    if link == "a run's folder":
        source = tmp_path / "run"
        source.symlink_to(early)
    else:
        source = tmp_path / "blobs"
        source.symlink_to(early / "best.ckpt")
        if link == "a chain":
            (tmp_path / "second.ckpt").symlink_to(source)
            source = tmp_path / "second.ckpt"
    cfg = compose_config("train", [*QUICK, "net.batch_norm=false", f"{key}={source}"])
    _, task = prepare(Run(cfg))
    best = checkpoints.read(early / "best.ckpt")["state_dict"]
    assert same(dict(task.state_dict()), dict(best))


def test_only_what_is_written_has_to_be_writable(monkeypatch, tmp_path):
    filter_warnings()
    asked = []
    monkeypatch.setattr(check.tempfile, "TemporaryDirectory", lambda dir: asked.append(dir) or MagicMock())
    cfg = compose_config("train", [*QUICK, f"log_dir={tmp_path}/logs"])
    for words in ({"folder": tmp_path / "x/run"}, {"folder": tmp_path}, {"writes": False}, {}):
        check.check(cfg, **words)
    assert asked == [tmp_path, tmp_path, tmp_path]
    monkeypatch.undo()
    with pytest.raises(UserError, match="run=/proc/nope/a: /proc is not a writable folder"):
        check.check(cfg, Path("/proc/nope/a"))


def test_a_resume_inside_of_hydras_own_job_leaves_it_as_it_is():
    """As the command line runs it: `hydra.main` has begun its job."""
    words = ["experiment=digits", "trainer=cpu"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        job = HydraConfig.instance().cfg
        assert compose_inside_job("train", words).trainer.accelerator == "cpu"
        assert GlobalHydra.instance().hydra is hydra
        assert HydraConfig.instance().cfg is job
