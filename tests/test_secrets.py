"""The value of an environment variable that a key refers to is shown and written as the reference."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from lab import cli, config, folder, run, secrets
from lab.data.report import DataReport
from lab.errors import UserError

CANARY = "canary-5f0e81"


@dataclass
class Facts:
    fingerprint: str = ""


KEYS = (
    "data.root", "monitor.metric", "trainer.accelerator", "trainer.precision", "trainer.max_time", "finetune", "seed",
    "warm_start", "matmul_precision", "early_stopping", "not_finite", "logger.name", "+logger.version", "name",
    "log_dir", "run", "net.hidden", "optimizer.lr", "task.label_smoothing", "trainer.strategy", "data.augment",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_no_message_shows_the_value(key, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setattr(secrets, "_known", {})
    word = f"{key}=${{oc.env:CANARY}}"
    monkeypatch.setattr(cli, "_hydra_app", lambda verb: print(config.compose(verb, sys.argv[1:]).get("seed"), CANARY))
    monkeypatch.setattr(sys, "argv", ["lab", "train", "experiment=digits", word])
    cli.exit_code(cli._main)
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    assert "${oc.env:CANARY}" in shown.out + shown.err
    assert not [path for path in tmp_path.rglob("*") if CANARY in str(path)]


def test_the_run_keeps_the_reference_to_its_data(compose, monkeypatch, tmp_path):
    monkeypatch.setenv("CANARY", CANARY)
    cfg = compose("experiment=image_folder", "data.root='${oc.env:CANARY}/my pics'")
    folder = tmp_path / "r"
    folder.mkdir()
    run.create(cfg, SimpleNamespace(facts=Facts(), report=DataReport()), folder)
    assert "${oc.env:CANARY}/my pics" in (folder / "config.yaml").read_text()
    assert not [path for path in folder.iterdir() if CANARY in path.read_text(errors="replace")]


def test_unknown_key_is_no_hint_at_itself():
    with pytest.raises(UserError, match="there is no data here. There are: "):
        config.check_command_line("predict", ["run=r", "data.root=y"])


@pytest.mark.parametrize("value", [CANARY, "/a b/c-0117", "~/data-0117", "ключ-0117"])
def test_a_runs_own_config_is_learned_from(value, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CANARY", value)
    monkeypatch.setattr(secrets, "_known", {})
    parts = "".join(f"{part}: {{}}\n" for part in folder.PARTS if part != "data")
    (tmp_path / folder.CONFIG).write_text(parts + "data: {root: '${oc.env:CANARY}'}\n")
    with secrets.kept(["run=r"]):  # as `cli` does around every verb and rank
        print(folder.read_config(tmp_path).data.root)
    assert capsys.readouterr().out == "${oc.env:CANARY}\n"


@pytest.mark.parametrize(("value", "prefix"), [("a/b-0117", True), ("/a/b-0117", False), ("~/b-0117", False)])
def test_a_relative_reference_is_found_from_anywhere(compose, value, prefix, monkeypatch, tmp_path):
    monkeypatch.setenv("CANARY", value)
    monkeypatch.chdir(tmp_path)
    cfg = compose("experiment=image_folder", "data.root='${oc.env:CANARY}'")
    (tmp_path / "r").mkdir()
    run.create(cfg, SimpleNamespace(facts=Facts(), report=DataReport()), tmp_path / "r")
    root = f"{tmp_path}/" * prefix + "${oc.env:CANARY}"
    assert f"root: {root}\n" in (tmp_path / "r/config.yaml").read_text()
