"""Links and pipes in a run's folder are refused, and a config writes to its run alone."""

import os
import shutil

import pytest
from conftest import PLAIN
from omegaconf import OmegaConf

from lab import runs
from lab.build import build_trainer
from lab.engine.config.allow import refuse
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import UserError
from lab.engine.folder import refuse_links
from lab.runs.refusals import refusals
from lab.verbs import report

READ_OR_WRITTEN = (
    "config.yaml", "data.json", "results.json", "stamp.json", "test_predictions.csv", "metrics.csv", "git.diff",
    ".lock", "best.ckpt", "last.ckpt", "previous.ckpt", "data_report.txt", "report.html", "crash.txt", "crash1.txt",
    "hparams.yaml", "model.onnx", "model_aoti.pt2", "figures", "figures/x.png", "explain", "explain/report.json",
    "checkpoints", "checkpoints/x",
)  # fmt: skip


@pytest.fixture
def planted(digits_run, tmp_path):
    """Make a copy of a finished run in which a name is a link to a file outside, or a pipe."""

    def plant(name, kind, target=tmp_path / "canary"):
        shutil.copytree(digits_run, tmp_path / "run")
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
        lambda: runs.load(folder),
        lambda: report.main([f"run={folder}"]),
        lambda: add_run_overrides([f"run={folder}"]),
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
    runs.load(folder)
    assert add_run_overrides([f"run={folder}"])[-1] == f"run={folder}"


@pytest.mark.parametrize("name", ["wandb", "events", "wandb/debug.log", "fit-p-0.txt", "checkpoints/x/last.ckpt"])
def test_a_link_that_leads_out_is_refused_before_training(name, planted):
    folder = planted(name, "a link")
    runs.load(folder)
    with pytest.raises(UserError, match="is a symbolic link"):
        add_run_overrides([f"run={folder}"])


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
    with pytest.raises(UserError, match="outside the run's folder|belongs under|expected https"):
        refuse(OmegaConf.create(node))


@pytest.mark.parametrize("dirpath", ["out", "./out/deeper", None])
def test_a_profiler_writes_to_the_run(dirpath, compose, tmp_path):
    node = "{_target_: lightning.pytorch.profilers.SimpleProfiler, filename: p, dirpath: %s}" % (dirpath or "null")
    cfg = compose(*PLAIN, f"trainer.profiler={node}", "trainer=cpu")
    trainer = build_trainer(cfg, tmp_path / "run")
    assert trainer.profiler.dirpath == (tmp_path / "run" / dirpath if dirpath else None)
    assert not runs.evaluation_trainer(cfg, {}).profiler.filename, "a test writes nothing"


@pytest.mark.parametrize("kind", ["RichProgressBar", "TQDMProgressBar", "ProgressBar"])
def test_a_progress_bar_is_refused_in_a_line(kind, compose):
    cfg = compose(*PLAIN, f"callbacks.bar={{_target_: lightning.pytorch.callbacks.{kind}}}")
    assert list(refusals(cfg)) == [f"callbacks.bar: lab has a progress bar; remove {kind}"]
