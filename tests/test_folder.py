"""A run's folder may come from anywhere: reading it touches it alone, and damage is named in one line."""

import json
import os
import shutil

import pytest
import torch
from conftest import PLAIN
from omegaconf import OmegaConf

from lab import checkpoints, config, report, resume, run, train
from lab.allow import read_config, refuse
from lab.errors import UserError
from lab.folder import read_json, read_metrics, refuse_links
from lab.loggers import Metrics
from lab.refusals import refusals
from lab.runs.index import read

DEEP = 100_000
GARBAGE = {
    "empty": b"", "number": b"3", "text": b'"x"', "null": b"null", "list": b"[]", "object": b"{}", "true": b"true",
    "deep list": b"[" * DEEP, "deep object": b'{"a":' * DEEP, "zeros": bytes(1000), "ones": b"\xff" * 1000,
    "not UTF-8": b'{"a": "\xe9"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "yaml": b"a: 1\n", "yaml list": b"- 1\n- 2\n",
    "yaml tag": b"a: !!python/object/apply:os.system [id]\n",
    "yaml bomb": b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9))
                                               for i in range(1, 10)),
    "tabs": b"\t\t\t", "control characters": b"\x1b[2J\x00\x07", "csv": b"a,b\n1,2\n",
    "csv with text": b"step,epoch,val/loss\nx,y,z\n", "csv with a long row": b"step,epoch\n1,1,1\n",
    "zip": b"PK\x03\x04",
    "wrong types": json.dumps({"status": 3, "best": 3, "test": [1], "seconds": "x", "overrides": {"a": 1},
                               "began": "x", "words": 3, "num_classes": -1, "mean": []}).encode(),
    "wrong inside": json.dumps({"status": "finished", "best": {"metric": 1, "value": "x"}, "test": {"a": "b"},
                                "overrides": [1], "git": {"commit": 1}, "resumed": [1]}).encode(),
}  # fmt: skip
FILES = ("results.json", "stamp.json", "data.json", "config.yaml", "metrics.csv", "last.ckpt", "best.ckpt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config.quiet()
    folder = tmp_path_factory.mktemp("finished") / "run"
    words = [*PLAIN, "net=mlp", "net.widths=[4]", "debug=two_batches", "trainer=cpu", f"run={folder}"]
    train.main(config.compose("train", [*words, "trainer.enable_progress_bar=false"]))
    return folder


def readers(folder):
    """What verbs do with a run before they work."""
    yield lambda: run.load(folder)
    yield lambda: report.page([folder])
    yield lambda: config.with_the_runs_own([f"run={folder}", "trainer.max_epochs=2"])
    yield lambda: resume.finished(folder, {})
    yield lambda: checkpoints.newest(folder)
    yield lambda: read_metrics(folder / "metrics.csv")


def said(work):
    try:
        work()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_in_one_line(file, garbage, finished, tmp_path):
    folder = tmp_path / "runs/bad"
    shutil.copytree(finished, folder)
    shutil.copytree(finished, tmp_path / "runs/whole")
    (folder / file).write_bytes(GARBAGE[garbage])
    for reader in readers(folder):
        message = said(reader)
        assert message is None or (message.startswith("error: ") and len(message.splitlines()) == 1)
    status = {run.folder: run.status for run in read(tmp_path / "runs")}
    assert status["whole"] == "finished", "a damaged run hides no other"
    if file in ("results.json", "stamp.json") and garbage.startswith("wrong"):
        assert status["bad"] == "damaged"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("results.json", {"status": "finished", "best": 3}, "best: "),
        ("results.json", {"status": "finished", "test": {"acc": "x"}}, "test.acc: "),
        ("stamp.json", {"overrides": "x"}, "overrides: "),
        ("stamp.json", {"began": "yesterday"}, "began: "),
        ("sweep.json", {"words": [1]}, "words.0: "),
        ("results.json", {}, "status: "),
    ],
)
def test_the_wrong_entry_is_named(name, content, problem, tmp_path):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{name} is damaged: {problem}"):
        read_json(tmp_path / name)


def test_a_table_of_metrics_without_rows_is_whole(tmp_path):
    """A run may be stopped before it has logged anything."""
    Metrics(tmp_path).save()
    assert Metrics(tmp_path, 3).rows == read_metrics(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize("key", [*checkpoints.NEEDED, *(f"last.{key}" for key in checkpoints.NEEDED_LAST)])
def test_a_checkpoint_that_lacks_an_entry_is_refused(key, finished):
    content = torch.load(finished / "last.ckpt", weights_only=True)
    checkpoints.check_content(content, finished)
    parent = content["last"] if "." in key else content
    parent.pop(key.rpartition(".")[2])
    with pytest.raises(UserError, match=f"it has no {key}"):
        checkpoints.check_content(content, finished)


READ_OR_WRITTEN = (
    "config.yaml", "data.json", "results.json", "stamp.json", "test_predictions.csv", "metrics.csv", "git.diff",
    ".lock", "best.ckpt", "last.ckpt", "previous.ckpt", "data_report.txt", "report.html", "crash.txt", "crash1.txt",
    "hparams.yaml", "model.onnx", "model_aoti.pt2", "figures", "figures/x.png", "explain", "explain/report.json",
    "checkpoints", "checkpoints/x",
)  # fmt: skip


@pytest.fixture
def planted(finished, tmp_path):
    """Make a copy of a finished run in which a name is a link to a file outside, or a pipe."""

    def plant(name, kind, target=tmp_path / "canary"):
        shutil.copytree(finished, tmp_path / "run")
        (tmp_path / "canary").write_text("secret")
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.symlink(target, path) if kind == "a link" else os.mkfifo(path)
        return tmp_path / "run"

    return plant


@pytest.mark.parametrize("name", READ_OR_WRITTEN)
@pytest.mark.parametrize("kind", ["a link", "a pipe"])
def test_a_folder_with_links_or_pipes_is_refused(name, kind, planted, tmp_path):
    folder = planted(name, kind)
    for verb in (
        lambda: refuse_links(folder),
        lambda: run.load(folder),
        lambda: report.main([f"run={folder}"]),
        lambda: config.with_the_runs_own([f"run={folder}"]),
    ):
        with pytest.raises(UserError):
            verb()
    assert (tmp_path / "canary").read_text() == "secret"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("wandb/latest-run", "run-1"), ("wandb/debug.log", "run-1/debug.log"), ("checkpoints/x/last.ckpt", "a.ckpt"),
        ("notes", "."),
    ],
)  # fmt: skip
def test_other_links_are_left_alone(name, target, planted):
    folder = planted(name, "a link", target)
    run.load(folder)
    assert config.with_the_runs_own([f"run={folder}"])[-1] == f"run={folder}"


@pytest.mark.parametrize("name", ["wandb", "events", "wandb/debug.log", "fit-p-0.txt", "checkpoints/x/last.ckpt"])
def test_a_link_that_leads_out_is_refused_before_training(name, planted):
    folder = planted(name, "a link")
    run.load(folder)
    with pytest.raises(UserError, match="is a symbolic link"):
        config.with_the_runs_own([f"run={folder}"])


@pytest.mark.parametrize(
    "node",
    [
        "callbacks: {x: {_target_: lab.sweep.study.open_storage, url: 'journal:/tmp/out'}}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: /tmp/out}}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, filename: ../../out}}",
        "logger: {_target_: lightning.pytorch.loggers.TensorBoardLogger, name: ../outside}",
        "logger: {_target_: lightning.pytorch.loggers.CSVLogger, version: ~/outside}",
        "trainer: {profiler: {_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: /tmp}}",
        "trainer: {profiler: {_target_: lightning.pytorch.profilers.PyTorchProfiler, dirpath: 'file:///tmp/out'}}",
        "trainer: {profiler: {_target_: lightning.pytorch.profilers.AdvancedProfiler, dirpath: 'memory://out'}}",
        "trainer: {profiler: {_target_: lightning.pytorch.profilers.XLAProfiler, dirpath: a/../../out}}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: out}}",
        "callbacks: {x: {_target_: lightning.pytorch.callbacks.DeviceStatsMonitor, dirpath: 's3://bucket/out'}}",
        "logger: {_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: 'file:///tmp/out'}",
        "logger: {_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: /tmp/out}",
        "logger: {_target_: lightning.pytorch.loggers.WandbLogger, dir: out}",
        "logger: {_target_: lightning.pytorch.loggers.CometLogger, offline_directory: out}",
        "logger: {_target_: lightning.pytorch.loggers.MLFlowLogger, tracking_uri: 'sqlite:////tmp/out.db'}",
        "logger: {_target_: lightning.pytorch.loggers.MLFlowLogger, artifact_location: 'file:/tmp/out'}",
        "net: {_target_: lightning.Trainer}",
    ],
)
def test_a_config_writes_to_its_run_alone(node):
    with pytest.raises(UserError, match="outside of the run's folder|belongs under|expected https"):
        refuse(OmegaConf.create(node))


@pytest.mark.parametrize("dirpath", ["out", "./out/deeper", None])
def test_a_profiler_writes_to_the_run(dirpath, compose, tmp_path):
    node = "{_target_: lightning.pytorch.profilers.SimpleProfiler, filename: p, dirpath: %s}" % (dirpath or "null")
    cfg = compose(*PLAIN, f"trainer.profiler={node}", "trainer=cpu")
    trainer = run.build_trainer(cfg, tmp_path / "run")
    assert trainer.profiler.dirpath == (tmp_path / "run" / dirpath if dirpath else None)
    assert not run.evaluation_trainer(cfg, {}).profiler.filename, "a test writes nothing"


@pytest.mark.parametrize("kind", ["RichProgressBar", "TQDMProgressBar", "ProgressBar"])
def test_a_progress_bar_is_refused_in_a_line(kind, compose):
    cfg = compose(*PLAIN, f"callbacks.bar={{_target_: lightning.pytorch.callbacks.{kind}}}")
    assert list(refusals(cfg)) == [f"callbacks.bar: lab shows the progress itself; leave {kind} out"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_classes": -1}, "num_classes: "),
        ({"num_classes": 10**9}, "num_classes: "),
        ({"num_classes": 9}, "10 class_names for 9 classes"),
        ({"image_size": "8"}, "can't be built|image_size: "),
        ({"mean": []}, "mean, std and patch_covariance are not of 1 channels"),
        ({"mean": ["x"]}, "mean.0: "),
        ({"std": [0]}, "std.0: "),
        ({"more": 1}, "unexpected keyword argument"),
        ({"class_names": 3}, "class_names: "),
        ({"num_samples": None}, "num_samples: "),
    ],
)
def test_facts_that_no_data_has_are_refused(change, problem, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    facts = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=problem):
        run.load(folder)


@pytest.mark.parametrize(
    "line", ["net.widths=x", "net.widths=[-1]", "net.depth=3", "optimizer.lr=x", "data.batch_size=0"]
)
def test_a_loaded_config_is_checked_as_a_typed_one(line, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    cfg = OmegaConf.load(folder / "config.yaml")
    key, _, value = line.partition("=")
    OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value}").x, force_add=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    with pytest.raises(UserError, match="config.yaml is damaged: (net|optimizer|data)"):
        run.load(folder)


def test_a_config_with_aliases_is_refused(finished, tmp_path):
    (tmp_path / "config.yaml").write_bytes(GARBAGE["yaml bomb"])
    with pytest.raises(UserError, match="aliases"):
        read_config(tmp_path)
