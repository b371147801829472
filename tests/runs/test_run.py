"""A run is a folder: what is in it, how to come back, and what is refused."""

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import LAB, PLAIN
from omegaconf import OmegaConf
from PIL import Image
from steps import Losses
from tables import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab import runs, train
from lab.build import build_task, build_trainer, read_data
from lab.callbacks.resume_checkpoint import ResumeCheckpoint
from lab.data import tiny
from lab.engine.config.compose import compose_config
from lab.engine.config.compose import compose_config as compose_verb
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import RunError, UserError
from lab.engine.runs import stamp
from lab.engine.training import process
from lab.verbs import test

QUICK = (*PLAIN, "net=mlp", "trainer.max_epochs=2")


def test_a_run_folder_is_complete(trained):
    folder = trained(*QUICK, "trainer.log_every_n_steps=1")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "data.json", "best.ckpt", "last.ckpt", "metrics.csv", "results.json", "stamp.json"} <= names
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["best"]["metric"] == "val/acc"
    assert {"test/loss", "test/acc", "test/f1", "test/acc/0"} <= set(results["test"])
    seconds = results["seconds"]
    assert 0 < seconds["first_step"] < seconds["total"]
    assert len(seconds["epochs"]) == len(seconds["validations"]) == 2
    assert all(
        0 <= validation < epoch for validation, epoch in zip(seconds["validations"], seconds["epochs"], strict=True)
    )
    stamp = json.loads((folder / "stamp.json").read_text())
    assert len(stamp["git"]["commit"]) == 40
    words = [*QUICK, "trainer.log_every_n_steps=1"]
    assert stamp["overrides"][-len(words) :] == words
    assert shlex.split(stamp["command"])[-len(words) :] == words
    assert stamp["git"]["dirty"] == bool(stamp["git"]["untracked"] or (folder / "git.diff").exists())
    assert stamp["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert stamp["hardware"]["cores"] >= 1
    assert len(stamp["data"]) == 64
    assert OmegaConf.load(folder / "config.yaml").name == "digits"
    rows = read_rows(folder / "metrics.csv")
    assert len([row for row in rows if row["val/loss"]]) == 2
    assert len([row for row in rows if row["test/loss"]]) == 1
    curves_are_in_tensorboard(folder)


def curves_are_in_tensorboard(folder):
    events = EventAccumulator(str(folder)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "val/f1", "test/acc", "lr-Adam"} <= scalars
    assert "hp_metric" not in scalars
    assert len(events.Scalars("val/acc")) == 2


def test_a_run_loads_from_its_folder_alone(digits_run, monkeypatch):
    folder = digits_run
    monkeypatch.chdir("/")
    cfg, data, task = runs.load(folder)
    assert cfg.net.widths == [32]
    assert not data.splits, "the data was read"
    assert not task.training
    best = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    assert all(value.equal(best[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("results.json", "it has no results.json"),
        ("best.ckpt", "it has no best.ckpt"),
        (".", "the folder does not exist"),
    ],
)
def test_what_is_no_finished_run_is_refused(digits_copy, remove, message):
    folder = digits_copy
    (folder / remove).unlink() if remove != "." else folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(UserError, match=f"is not a finished run: {message}"):
        runs.load(folder)


def test_a_run_that_failed_says_so_and_is_refused(compose, tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("no luck")

    monkeypatch.setattr("lab.tasks.classification.Classification.step", broken)
    cfg = compose(*QUICK)
    with pytest.raises(RuntimeError, match="no luck"):
        train.main(cfg)
    (folder,) = (tmp_path / "logs/digits").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "failed"
    assert results["error"] == "RuntimeError: no luck"
    with pytest.raises(UserError, match="is not a finished run"):
        runs.load(folder)


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    folders: list = []
    threads = [threading.Thread(target=lambda: folders.append(runs.new_folder(tmp_path))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(set(folders)) == 8


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["ema=0.9"],
        ["compile=true"],
        ["channels_last=true", "net=resnet"],
        ["ema=0.9", "net=resnet", "trainer.precision=bf16-mixed"],
        ["optimizer=muon", "scheduler=warmup_cosine", "early_stopping=1", "trainer.gradient_clip_val=1.0"],
        ["trainer.accumulate_grad_batches=2", "trainer.deterministic=true", "trainer.max_epochs=3"],
    ],
    ids=" ".join,
)
def test_the_test_metrics_come_again_from_the_folder_alone(trained, more, capsys):
    folder = trained(*QUICK, *more)
    for checkpoint in folder.glob("*.ckpt"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert not [name for name in weights if "_orig_mod" in name]
    before = json.loads((folder / "results.json").read_text())["test"]
    capsys.readouterr()
    test.main(compose_verb("test", [f"run={folder}"]))
    shown = capsys.readouterr().out
    for name in ("acc", "f1", "loss"):
        assert f"test/{name:<7} {before[f'test/{name}']:.4f}" in shown


def test_the_averaged_weights_are_the_ones_tested(trained):
    folder = trained(*QUICK, "ema=0.99")
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not averaged["net.layers.1.weight"].equal(current["net.layers.1.weight"])
    _, data, task = runs.load(folder)
    assert task.net.layers[1].weight.equal(averaged["net.layers.1.weight"])
    data.setup("test")
    trainer = L.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    again = trainer.test(task, data, verbose=False)[0]
    results = json.loads((folder / "results.json").read_text())
    assert again["test/loss"] == pytest.approx(results["test"]["test/loss"])


def test_a_sweep_sees_the_best_value_not_the_last(compose, tmp_path, monkeypatch):
    cfg = compose(*QUICK, "trainer.max_epochs=4")
    values = iter([0.5, 0.9, 0.7, 0.6, 0.9])  # the last: of the best weights, for the figures
    log = L.LightningModule.log_dict

    def scripted(self, metrics, **kwargs):
        if "val/acc" in metrics:
            metrics = metrics | {"val/acc": torch.tensor(next(values))}
        log(self, metrics, **kwargs)

    monkeypatch.setattr("lab.tasks.base.Task.log_dict", scripted, raising=False)
    assert train.main(cfg) == pytest.approx(0.9)
    (folder,) = (tmp_path / "logs/digits").iterdir()
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 4, "epochs that are done"


def test_early_stopping_stops(trained):
    folder = trained(*QUICK, "early_stopping=1", "optimizer.lr=0.0", "scheduler=constant", "trainer.max_epochs=9")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


def test_seed_zero_is_a_seed(compose, tmp_path):
    losses = []
    for seed in (0, 0, 1):
        cfg = compose(*QUICK, f"seed={seed}")
        data = read_data(cfg)
        L.seed_everything(seed, verbose=False)
        trainer = build_trainer(cfg, tmp_path)
        trainer.callbacks.append(callback := Losses())
        trainer.fit(build_task(cfg, data.facts), data)
        losses.append(callback.values)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["monitor.metric=val/accuracy"], "unknown metric val/accuracy. Did you mean val/acc?"),
        (["net=torchvision", "net.name=resnet19"], "no classification model 'resnet19'"),
        (["net=cnn", "data.image_size=6"], "CNN needs images of 10 pixels or more, got 6"),
    ],
)
def test_what_the_data_shows_to_be_wrong_leaves_no_folder(trained, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        trained(*QUICK, *overrides)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_steps=3"],
        ["trainer.max_epochs=1", "trainer.check_val_every_n_epoch=2"],
        ["trainer.max_steps=0"],
        ["trainer.max_epochs=0", "scheduler=one_cycle"],
        ["trainer.max_epochs=0", "scheduler=triangle"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("ema", ["ema=null", "ema=0.9"])
def test_a_run_that_ends_before_its_first_validation_is_validated(trained, overrides, ema):
    folder = trained(*QUICK, ema, *([] if "scheduler" in overrides[-1] else ["scheduler=constant"]), *overrides)
    results = json.loads((folder / "results.json").read_text())
    assert results["status"] == "finished"
    best = results["best"]
    assert best["value"] == pytest.approx(best["metrics"][best["metric"]])
    runs.load(folder)


def test_a_diverged_run_fails_and_says_so(trained, tmp_path):
    with pytest.raises(RunError, match=r"the training diverged, or samples \[\d+, .* are broken.*smaller optimizer.lr"):
        trained(*QUICK, "optimizer=sgd", "optimizer.lr=1e20", "scheduler=constant", "ema=null")
    (results,) = tmp_path.glob("logs/digits/*/results.json")
    assert json.loads(results.read_text())["status"] == "failed"


def test_a_schedule_needs_an_end(trained):
    with pytest.raises(UserError, match="scheduler: it needs the length of the run"):
        trained(*QUICK, "trainer.max_epochs=-1", "trainer.max_time='00:00:00:05'")


def test_pretrained_weights_are_not_fetched_to_load_a_run(trained, monkeypatch):
    folder = trained(*QUICK, "debug=two_batches", "net=torchvision")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("weights: null", "weights: DEFAULT"))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    assert runs.load(folder)[0].net.weights == "DEFAULT"


def test_secrets_stay_references(trained, monkeypatch):
    secret = ":".join(["00", "12", "34", "56"])
    monkeypatch.setenv("MY_SECRET", secret)
    timer = "{_target_: lightning.pytorch.callbacks.Timer, duration: '${oc.env:MY_SECRET}'}"
    folder = trained(*QUICK, f"+callbacks.timer={timer}")
    assert "${oc.env:MY_SECRET}" in (folder / "config.yaml").read_text()
    assert not [path for path in folder.iterdir() if secret.encode() in path.read_bytes()]


def test_changed_data_is_noticed(trained, tmp_path, capsys):
    shutil.copytree(tiny.image_folder(), tmp_path / "images")
    folder = trained(
        "experiment=image_folder", f"data.root={tmp_path}/images", "debug=two_batches", "data.num_workers=0"
    )
    test.main(compose_verb("test", [f"run={folder}"]))
    assert "changed" not in capsys.readouterr().err
    mean = json.loads((folder / "data.json").read_text())["features"]["image"]["mean"]
    (tmp_path / "images/a/0.png").unlink()
    test.main(compose_verb("test", [f"run={folder}"]))
    assert "warning: the data has changed" in capsys.readouterr().err
    _, data, _ = runs.load(folder)
    data.setup("test")
    assert data.facts.features["image"].mean == mean, "the weights were trained with another mean"
    shutil.copytree(tmp_path / "images/a", tmp_path / "images/d")
    with pytest.raises(UserError, match="data: label: num_classes, class_names differ from those"):
        test.main(compose_verb("test", [f"run={folder}"]))


@pytest.fixture
def twelve(tmp_path):
    """Twelve pictures of three classes, in five modes."""
    for i in range(12):
        mode = ["RGB", "L", "P", "RGBA", "CMYK"][i % 5]
        picture = Image.new("RGB", (30 + i, 25), ["red", "green", "blue"][i % 3]).convert(mode)
        folder = tmp_path / "images" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    return tmp_path / "images"


def test_twelve_pictures_in_five_modes_train(trained, twelve):
    folder = trained("experiment=image_folder", f"data.root={twelve}", "trainer.max_epochs=1")
    assert json.loads((folder / "data.json").read_text())["features"]["label"]["class_names"] == ["a", "b", "c"]
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_corrupt_picture_is_named_in_a_line_wherever_it_is(compose, twelve, split):
    cfg = compose("experiment=image_folder", f"data.root={twelve}", "trainer.max_epochs=1")
    path = Path(read_data(cfg).splits[split].paths[0])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError) as caught:
        train.main(cfg)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"data: {path} is not a readable image (")


@pytest.mark.parametrize(("limit", "threads"), [("150000 100000", 2), ("max 100000", 3), ("10000 100000", 1)])
def test_no_more_threads_than_the_container_has_cores(limit, threads, tmp_path, monkeypatch, compose):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr("lab.engine.training.process.CONTAINER_CORES", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(3), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        torch.set_num_threads(4)
        process.set_up_process(compose("experiment=digits"))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_ctrl_c_ends_with_130_and_says_so_in_the_folder(tmp_path):
    command = [LAB, "train", *QUICK, "trainer.max_epochs=10000", "trainer=cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=listen, **pipes) as process:
        while not list(tmp_path.glob("logs/digits/*/last.ckpt")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    (folder,) = tmp_path.glob("logs/digits/*")
    assert json.loads((folder / "results.json").read_text())["status"] == "interrupted"
    with pytest.raises(UserError, match="its status is interrupted"):
        runs.load(folder)


@pytest.mark.parametrize(
    ("typed", "place"),
    {
        "~/runs/a": "home/runs/a",
        "~": "home",
        "$HOME": "cwd/$HOME",
        "$HOME/$x": "cwd/$HOME/$x",
        "a$LAB_PLACE": "cwd/a$LAB_PLACE",
        "a b/~/c": "cwd/a b/~/c",
        "rel/a": "cwd/rel/a",
    }.items(),
)
def test_all_files_of_a_run_lie_in_the_one_folder(typed, place, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAB_PLACE", "elsewhere")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    words = add_run_overrides(["experiment=digits", "trainer=cpu", f"run={typed}"])
    cfg = compose_config("train", words)
    assert Path(cfg.run).absolute() == tmp_path / place
    trainer = build_trainer(cfg, Path(cfg.run))
    board, table = trainer.loggers
    last = next(callback for callback in trainer.callbacks if isinstance(callback, ResumeCheckpoint))
    folders = [trainer.checkpoint_callback.dirpath, board.log_dir, trainer.default_root_dir, *(
        path.parent for path in (last.path, table.path))]  # fmt: skip
    assert {os.path.normpath(folder) for folder in folders} == {str(tmp_path / place)}


@pytest.mark.parametrize("key", ["log_dir", "finetune", "warm_start", "data.root"])
def test_a_tilde_is_the_home_in_every_path(key, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = compose_config("train", ["experiment=image_folder", f"{key}=~/a$b"])
    assert OmegaConf.select(cfg, key) == f"{tmp_path}/a$b"
    assert OmegaConf.select(compose_config("train", ["experiment=image_folder", f"{key}=a/~"]), key) == "a/~"


@pytest.mark.parametrize("key", ["run", "model", "input", "output"])
def test_a_tilde_is_the_home_for_predict_too(key, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose_config("predict", ["input=x", f"{key}=~/a"])[key] == f"{tmp_path}/a"


def test_a_clone_in_a_folder_named_lab_records_its_commit(tmp_path, monkeypatch):
    """Only a wheel has conf/ inside the package; `git clone` names the folder after the repository."""
    (tmp_path / "lab/conf").mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "lab"), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr("lab.engine.runs.stamp.CONF", tmp_path / "lab/conf")
    assert stamp.git_state(tmp_path / "git.diff")["dirty"] is False
    monkeypatch.setattr("lab.engine.runs.stamp.CONF", stamp.PACKAGE / "conf")
    assert stamp.git_state(tmp_path / "git.diff") is None
