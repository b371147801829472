"""The folder of a run: found, locked, writable, and not mistaken for something else."""

import contextlib
import errno
import json
import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from locks import held_lock
from resuming import QUICK, resume, saved

from lab import train
from lab.engine import lock
from lab.engine.config.compose import CONF, compose_config, compose_inside_job
from lab.engine.config.run_overrides import add_run_overrides, resolve_latest
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs import check
from lab.verbs import runs as runs_main


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
    with held_lock(folder):
        before = saved(folder)
        with pytest.raises(UserError, match="another process is training in"):
            train.main(cfg)
        assert saved(folder) == before
    (folder / "config.yaml").touch()  # the first has made a run of it in the meantime
    with pytest.raises(UserError, match="another process has just started a run"), lock.locked(folder, is_new=True):
        pass


@pytest.mark.parametrize(("number", "held"), [(errno.EAGAIN, True), (errno.EACCES, True), (errno.ENOLCK, False),
                                              (errno.ENOSYS, False), (errno.EOPNOTSUPP, False)])  # fmt: skip
def test_a_file_system_without_locks_is_not_another_process(number, held, tmp_path, monkeypatch, capsys):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with pytest.raises(UserError, match="another process") if held else contextlib.nullcontext(), lock.locked(tmp_path):
        pass
    assert ("cannot be locked" in capsys.readouterr().err) != held


def test_two_do_not_train_in_one_folder(digits_copy):
    before = saved(digits_copy)
    with held_lock(digits_copy), pytest.raises(UserError, match="another process is training in"):
        resume(digits_copy, "trainer.max_epochs=20")
    assert saved(digits_copy) == before


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
