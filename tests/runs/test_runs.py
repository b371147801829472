"""The table over runs: from their files alone."""

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from conftest import TINY
from locks import held_lock
from made_up_runs import put

from lab.engine import lock
from lab.engine.errors import UserError
from lab.engine.files import write_json
from lab.engine.runs.index import INDEX, read_runs
from lab.verbs.runs import main

SCORES = {"mlp": [0.90, 0.92, 0.94], "cnn": [0.95, 0.96, 0.99]}


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    for net, values in SCORES.items():
        for seed, value in enumerate(values):
            put(logs, f"x/{net}/{seed:03d}", net=net, seed=seed, value=value)
    put(logs, "x/2026-01-01_00-00-00", status="failed", net="mlp", seed=0)
    return logs


@pytest.fixture
def table(capsys):
    def table(*words):
        main([*words, "--format", "csv"])
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    return table


@pytest.mark.usefixtures("logs")
def test_runs_are_listed_selected_and_sorted(table):
    assert [row["status"] for row in table()] == ["finished"] * 6 + ["failed"]
    assert [row["seed"] for row in table("where", "net=mlp", "best>0.91", "sort", "best")] == ["2", "1"]
    assert len(table("x/cnn")) == len(table("logs/x/cnn/")) == len(table("x/cnn/*")) == 3
    assert [row["run"] for row in table("where", "status=failed")] == ["logs/x/2026-01-01_00-00-00"]
    assert "net" not in table("x/cnn")[0], "a column that does not differ"


@pytest.mark.usefixtures("logs")
def test_groups_have_mean_deviation_and_number(table):
    rows = {row["net"]: row for row in table("--group-by", "net")}
    assert rows["mlp"]["val/acc"] == "0.9200 ± 0.0200"
    assert rows["mlp"]["n"] == "3", "the failed one counts"
    assert rows["cnn"]["test/acc"] == "0.9567 ± 0.0208"


@pytest.mark.usefixtures("logs")
def test_two_are_compared_and_seeds_are_paired(capsys):
    main(["compare", "x/mlp", "x/cnn"])
    said = capsys.readouterr().out
    assert re.search(r"^net.name +mlp +cnn$", said, re.M)
    assert "val/acc: mean difference +0.0467, standard error 0.0033, 3 pairs, p = 0.00506" in said
    main(["compare", "x", "x/cnn"])
    assert "x has several runs of one seed" in capsys.readouterr().out
    main(["best"])
    assert capsys.readouterr().out.startswith("logs/x/cnn/002  val/acc 0.9900")


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "json"])
@pytest.mark.usefixtures("logs")
def test_every_format_has_every_run(form, capsys):
    main(["--format", form])
    said = capsys.readouterr().out
    assert said.count("finished") == 6
    if form == "json":
        assert len(json.loads(said)) == 7
    if form == "latex":
        assert said.count(r"\\") == 8
        assert r"2026-01-01\_00-00-00" in said


def test_the_index_follows_the_folders(logs):
    before = read_runs(logs)
    assert (logs / INDEX).exists()
    write_json(logs / "x/mlp/000/results.json", {"status": "failed", "error": "RunError: error: it broke\nx"})
    put(logs, "y/new", net="rnn")
    after = {run.folder: run for run in read_runs(logs)}
    assert after["x/mlp/000"].error == "it broke"
    assert "y/new" in after
    (logs / INDEX).unlink()
    assert {run.folder: run for run in read_runs(logs)} == after
    assert len(before) + 1 == len(after)


def test_a_run_without_a_process_was_killed(logs):
    folder = put(logs, "x/now", status="running", net="mlp")
    with held_lock(folder):
        assert {run.folder: run.status for run in read_runs(logs)}["x/now"] == "running"
        assert lock.is_held(folder) is True
    assert {run.folder: run.status for run in read_runs(logs)}["x/now"] == "killed"
    assert lock.is_held(folder) is False


def test_who_asks_whether_a_run_is_running_takes_no_lock(logs, monkeypatch):
    folder = put(logs, "x/now", status="running", net="mlp")
    with lock.locked(folder):
        pass
    monkeypatch.setattr(lock.fcntl, "lockf", None)
    assert lock.is_held(folder) is False


@pytest.mark.parametrize("reason", ["no locks", "not readable", "a link", "another system"])
@pytest.mark.parametrize("action", ["rm", "archive"])
def test_a_run_of_which_nobody_knows_whether_it_is_running_stays(action, reason, logs, monkeypatch):
    folder = put(logs, "x/now", status="running", net="mlp")

    def fail(*_):
        raise OSError(errno.EACCES if reason == "not readable" else errno.ENOLCK, "it can't")

    if reason == "a link":
        (folder / ".lock").symlink_to(logs / "elsewhere")
    else:
        (folder / ".lock").touch()
    if reason == "no locks":
        monkeypatch.setattr(lock.fcntl, "fcntl", fail)
        monkeypatch.setattr(lock.fcntl, "lockf", fail)
    if reason == "not readable":
        opened = os.open
        monkeypatch.setattr(
            lock.os, "open", lambda path, *a: (fail if str(path).endswith(".lock") else opened)(path, *a)
        )
    if reason == "another system":
        monkeypatch.setattr(lock.sys, "platform", "plan9")
    assert lock.is_held(folder) is None
    assert {run.folder: run.status for run in read_runs(logs)}["x/now"] == "running"
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError, match="x/now"):
        main([action, "x/now"])
    assert (folder / "config.yaml").exists()


@pytest.mark.parametrize("action", ["rm", "archive"])
def test_a_run_that_begins_after_the_question_stays(action, logs, monkeypatch):
    folder = put(logs, "x/now", status="failed", net="mlp")
    with ExitStack() as stack:

        def answer():
            stack.enter_context(held_lock(folder))
            return "y\n"

        monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=answer, close=lambda: None))
        with pytest.raises(UserError, match="another process is training in"):
            main([action, "x/now"])
    assert (folder / "config.yaml").exists()


def test_a_folder_that_was_removed_meanwhile_is_not_trained_in(tmp_path, monkeypatch):
    take = lock.fcntl.lockf

    def late(*arguments):
        take(*arguments)
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(lock.fcntl, "lockf", late)
    with pytest.raises(UserError, match="has just removed or moved it"), lock.locked(tmp_path / "run"):
        pass


def test_runs_are_removed_or_archived_only_when_asked(logs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    main(["rm", "where", "status=failed"])
    assert "Nothing was changed." in capsys.readouterr().out
    assert len(read_runs(logs)) == 7
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    main(["rm", "where", "status=failed"])
    assert len(read_runs(logs)) == 6
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    main(["archive", "x/mlp"])
    assert {run.folder[:5] for run in read_runs(logs)} == {"x/cnn"}
    assert (logs / ".archive/x/mlp/002/results.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "nothing": "no run in logs",
        "where net": "expected KEY=VALUE",
        "sort bset": "there is no such column",
        "compare x/mlp": "compare takes two runs",
        "compare x/mlp nothing": "no finished run",
        "rerun x/mlp": "rerun takes one run",
        "--format x": "invalid choice",
        "--loud": "unknown option --loud",
        "--log-dir nowhere": "there is no folder nowhere",
    }.items(),
)
@pytest.mark.usefixtures("logs")
def test_a_mistake_is_said_in_a_line(words, said):
    with pytest.raises(UserError, match="^error: ") as error:
        main(words.split())
    assert said in str(error.value)


def test_listing_imports_nothing_heavy(logs):
    code = (
        "import sys; from lab.verbs.runs import main; main([]); main(['--group-by', 'net']);"
        "print([name for name in ('torch', 'lightning', 'hydra', 'omegaconf', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=logs.parent, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_rerun_says_what_is_the_same(lab, tmp_path):
    def rerun():
        result = lab("runs", "rerun", "digits/one")
        said = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[-5:])
        return result, said

    assert lab("train", "experiment=digits", *TINY.split(), "run=logs/digits/one").returncode == 0
    result, said = rerun()
    assert said == dict.fromkeys(("config", "code", "packages", "data", "scores"), "the same"), result.stderr
    assert result.returncode == 0

    stamp = json.loads((tmp_path / "logs/digits/one/stamp.json").read_text())
    stamp["git"] = {"commit": "of another day"}
    write_json(tmp_path / "logs/digits/one/stamp.json", stamp)
    results = json.loads((tmp_path / "logs/digits/one/results.json").read_text())
    results["test"]["test/acc"] += 1e-9
    write_json(tmp_path / "logs/digits/one/results.json", results)
    result, said = rerun()
    assert said["code"] == said["scores"] == "different"
    assert "has different scores" in result.stderr
    assert result.returncode == 1
