"""The value of an environment variable that a key refers to is shown and written as the reference."""

import json
import os
import shlex
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from lab import train
from lab.data import tiny
from lab.data.data_report import DataReport
from lab.data.facts import Facts
from lab.engine import cli, folder, secrets
from lab.engine.config.command_line import check_command_line
from lab.engine.config.compose import compose_config
from lab.engine.config_file import GROUPS, read_unchecked_config
from lab.engine.errors import UserError
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.runs.check import check
from lab.runs.new import create_run
from lab.verbs.predict import main as predict
from lab.verbs.predict.items import Item
from lab.verbs.predict.predictions import Predictions
from lab.verbs.predictor import Predictor

CANARY = "-".join(("canary", "5f0e81"))  # this file itself may be in git.diff


FACTS = Facts({}, {}, "")
KEYS = (
    "data.root", "monitor.metric", "trainer.accelerator", "trainer.precision", "trainer.max_time", "finetune", "seed",
    "warm_start", "matmul_precision", "early_stopping", "not_finite", "logger.name", "+logger.version", "name",
    "log_dir", "run", "net.hidden", "optimizer.lr", "task.label_smoothing", "trainer.strategy", "data.augment",
)  # fmt: skip


REFERENCES = (
    "${oc.env:CANARY}", "${oc.env:'CANARY'}", '${oc.env:"CANARY"}', "${ oc.env : CANARY }", "${oc.env:${warm_start}}",
)  # fmt: skip
PLACES = (
    "name", "log_dir", "run", "logger.name", "logger.version", "+logger.sub_dir", "+sweep.name",
    "callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, filename: ", "+trainer.default_root_dir",
)  # fmt: skip


def caught(monkeypatch, capsys, *words, app):
    """The output of `lab train WORDS` for an app."""
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(cli, "_hydra_app", app)
    monkeypatch.setattr(sys, "argv", ["lab", "train", "experiment=digits", *words])
    code = cli.exit_code(cli.main)
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def show(verb, config):
    """Print what a job has of its config."""
    cfg = compose_config(config, sys.argv[1:])
    print(OmegaConf.to_container(cfg, resolve=True))
    print("${oc.env:CANARY}")


@pytest.mark.parametrize("key", KEYS)
def test_no_message_shows_the_value(key, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", CANARY)
    _, shown = caught(monkeypatch, capsys, f"{key}=${{oc.env:CANARY}}", app=show)
    assert CANARY not in shown
    assert "${oc.env:CANARY}" in shown
    assert not [path for path in tmp_path.rglob("*") if CANARY in str(path)]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("key", ["net.dropout", "name"])
def test_a_reference_may_be_spelled_in_any_way(key, reference, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", CANARY)
    quoted = f'"{reference}"' if "'" in reference else f"'{reference}'"
    code, shown = caught(monkeypatch, capsys, "warm_start=CANARY", f"{key}={quoted}", app=show)
    assert CANARY not in shown
    assert code == (0 if key == "net.dropout" else 2), shown
    assert code == 0 or "becomes a folder name, so it cannot come from ${oc.env:CANARY}. Write it out." in shown


@pytest.mark.parametrize("key", PLACES)
def test_a_folders_name_is_written_out(key, monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)
    word = f"{key}'${{oc.env:CANARY}}'}}" if "{" in key else f"{key}=${{oc.env:CANARY}}"
    with pytest.raises(UserError, match="becomes a folder name"):
        compose_config("train", ["experiment=digits", word])


VALUES = [
    ("/srv/secret/", ["/srv/secret", "/srv/secret/", "/srv/secret/x.png"]),
    ("/a//secret", ["/a/secret", "/a//secret"]),
    ("~/secret-7", [os.path.expanduser("~/secret-7"), "~/secret-7"]),
    ("./secret", ["secret", "./secret", os.path.abspath("secret")]),
    ("two\nlines-7", ["two\nlines-7", "two\\nlines-7", "two lines-7", repr("two\nlines-7")]),
    ("it's \"7\" <b>", [repr("it's \"7\" <b>"), json.dumps("it's \"7\" <b>"), shlex.quote("it's \"7\" <b>")]),
    ("20240117", ["seed=20240117,", "20240117"]),
    ("pa55", ["pa55", "password: pa55!"]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "shown"), VALUES)
def test_a_value_is_recognised_in_every_form(value, shown, monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})
    secrets.remember(value, "REF")
    for text in shown:
        found = secrets.redacted(text)
        assert "REF" in found
        assert not any(part in found for part in ("secret", "lines-7", "7", "pa55", "20240117")), found


def test_another_reference_may_name_a_folder():
    assert compose_config("train", ["experiment=digits", "log_dir=a_${seed}", "name=b_${fold}"]).log_dir == "a_0"


def test_what_is_no_secret_stays(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})
    for value in ("0", "17", "2024", "0.5", "1e-3", "cpu", ""):
        secrets.remember(value, "REF")
    assert secrets.redacted("cpu 0 17 2024 0.5 1e-3") == "cpu 0 17 2024 0.5 1e-3"
    secrets.remember("20240117", "REF")
    secrets.remember("auto", "REF")
    assert secrets.redacted("0.20240117 120240117 autos") == "0.20240117 120240117 autos"


def test_a_run_shows_and_writes_the_references(compose, monkeypatch, tmp_path, capsys):
    """One run whose data, net, optimizer, task and seed come from variables; its files, their names, all it prints."""
    numbers = {"LR": "0.002" + "71828", "SMOOTH": "0.031" + "4159", "SEED": "2024" + "0117"}
    secret = numbers | {"ROOT": f"{tmp_path}/{CANARY}//pics/"}
    shutil.copytree(tiny.image_folder(), tmp_path / CANARY / "pics")
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(secrets, "_known", {})
    typed = [
        "experiment=image_folder", "debug=two_batches", "data.num_workers=0", "data.root=${oc.env:ROOT}", "net=mlp",
        "net.widths=[4]", "optimizer.lr='${oc.decode:${oc.env:LR}}'",
        "task.label_smoothing='${oc.decode:${oc.env:SMOOTH}}'", "seed='${oc.decode:${oc.env:SEED}}'",
    ]  # fmt: skip
    cfg = compose(*typed)
    cfg.run = str(tmp_path / "run")
    with secrets.redact_output():
        train.main(cfg)
        print(cfg.seed, cfg.optimizer.lr, cfg.data.root)
    shown = capsys.readouterr()
    written = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for path in written:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                written[path] = b"".join(map(file.read, file.namelist()))
    assert {"config.yaml", "stamp.json", "results.json", "best.ckpt", "metrics.csv"} <= {p.name for p in written}
    assert any("tfevents" in path.name for path in written)
    for value in (CANARY, *numbers.values()):
        assert value not in shown.out + shown.err
        assert not [path.name for path, content in written.items() if value.encode() in content], value
    assert "${oc.env:SEED} ${oc.env:LR} ${oc.env:ROOT}" in shown.out


@pytest.mark.parametrize("name", [f"/srv/{CANARY}/1.png", f"{CANARY}/a 'b'.png", f"/srv//{CANARY}/2.png"])
def test_answers_name_their_items_by_the_reference(name, monkeypatch, tmp_path):
    monkeypatch.setattr(secrets, "_known", {})
    secrets.remember(os.path.dirname(name), "${oc.env:S}")
    shade = ClassLabel(["dark", "light"], entry="shade")
    asked = Predictor({"image": Image(1, 2)}, {"shade": shade}, lambda arrays: {"shade": np.ones((1, 2))})
    (rows,) = Predictions(asked, 1, None).of([[Item({"image": name})]])
    for suffix in ("csv", "jsonl"):
        with predict.writing(f"{tmp_path}/rows.{suffix}") as write:
            write(rows)
        written = (tmp_path / f"rows.{suffix}").read_text()
        assert CANARY not in written
        assert written.count("${oc.env:S}/") == 3  # the item, and twice in its error


def test_the_run_keeps_the_reference_to_its_data(compose, monkeypatch, tmp_path):
    monkeypatch.setenv("CANARY", CANARY)
    cfg = compose("experiment=image_folder", "data.root='${oc.env:CANARY}/my pics'")
    folder = tmp_path / "r"
    folder.mkdir()
    create_run(cfg, SimpleNamespace(facts=FACTS, report=DataReport()), folder)
    assert "${oc.env:CANARY}/my pics" in (folder / "config.yaml").read_text()
    assert not [path for path in folder.iterdir() if CANARY in path.read_text(errors="replace")]


@pytest.mark.parametrize(
    ("key", "expected"),
    [("data.batch_size", "valid integer"), ("optimizer.lr", "valid number"), ("net.widths.0", "valid integer")],
)
def test_a_value_of_the_environment_has_its_type_checked(compose, key, expected, monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)
    word = f"{key}=${{oc.env:CANARY}}" if key != "net.widths.0" else "net.widths=['${oc.env:CANARY}']"
    with pytest.raises(UserError, match=f"should be a {expected}") as error:
        check(compose("experiment=digits", "net=mlp", word))
    assert CANARY not in str(error.value)


def test_unknown_key_is_no_hint_at_itself():
    with pytest.raises(UserError, match="there is no data here. There are: "):
        check_command_line("predict", ["run=r", "data.root=y"])


@pytest.mark.parametrize("value", [CANARY, "/a b/c-0117", "~/data-0117", "ключ-0117"])
def test_a_runs_own_config_is_learned_from(value, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CANARY", value)
    monkeypatch.setattr(secrets, "_known", {})
    parts = "".join(f"{part}: {{}}\n" for part in GROUPS if part != "data")
    (tmp_path / folder.CONFIG).write_text(parts + "data: {root: '${oc.env:CANARY}'}\n")
    with secrets.redact_output():  # as `cli` does around every verb and rank
        print(read_unchecked_config(tmp_path).data.root)
    assert capsys.readouterr().out == "${oc.env:CANARY}\n"


@pytest.mark.parametrize(("value", "prefix"), [("a/b-0117", True), ("/a/b-0117", False), ("~/b-0117", False)])
def test_a_relative_reference_is_found_from_anywhere(compose, value, prefix, monkeypatch, tmp_path):
    monkeypatch.setenv("CANARY", value)
    monkeypatch.chdir(tmp_path)
    cfg = compose("experiment=image_folder", "data.root='${oc.env:CANARY}'")
    (tmp_path / "r").mkdir()
    create_run(cfg, SimpleNamespace(facts=FACTS, report=DataReport()), tmp_path / "r")
    root = f"{tmp_path}/" * prefix + "${oc.env:CANARY}"
    assert f"root: {root}\n" in (tmp_path / "r/config.yaml").read_text()
