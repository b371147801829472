"""The table of `lab runs`: its columns, what they are called, how wide it is, and which values are the same."""

import csv
import io
import json
import subprocess
from functools import cache

import pytest
from made_up_runs import put
from omegaconf import OmegaConf

from lab.engine.config.compose import compose_config
from lab.engine.config_file import write_config
from lab.engine.errors import UserError
from lab.engine.files import write_json
from lab.engine.runs.index import RunInfo, parsed, read_runs, select
from lab.engine.runs.rows import distinct, sort_rows
from lab.engine.runs.table import FORMATS, shown
from lab.sweep.best_yaml import write_best
from lab.verbs.runs import main

NASTY = "a|b\\c{d}^~\x1b[2J\n=x"


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Two runs that monitor val/acc, and two that monitor val/loss."""
    monkeypatch.chdir(tmp_path)
    for number, figures in enumerate(("false", "False", "true", "FALSE")):
        put(tmp_path / "logs", f"x/{number}", net="mlp", figures=figures, value=number / 4, **{"optimizer.lr": "1e-3"})
    for number in (2, 3):
        path = tmp_path / f"logs/x/{number}/results.json"
        best = {"metric": "val/loss", "mode": "min", "value": number / 4}
        write_json(path, json.loads(path.read_text()) | {"best": best})
    return tmp_path / "logs"


@pytest.fixture
def said(capsys, monkeypatch):
    def said(*words, columns=120):
        monkeypatch.setenv("COLUMNS", str(columns))
        main(words)
        return capsys.readouterr().out

    return said


@pytest.mark.usefixtures("logs")
def test_each_monitored_metric_has_a_column_that_names_its_direction(said):
    rows = list(csv.DictReader(io.StringIO(said("--format", "csv"))))
    assert [(row["val/acc"], row["val/loss"]) for row in rows] == [("0.0", ""), ("0.25", ""), ("", "0.5"), ("", "0.75")]
    for form, head in {"text": "val/acc ↑  val/loss ↓  test/acc ↑", "markdown": "| val/acc ↑ | val/loss ↓ |"}.items():
        assert head in said("--format", form)
    assert r"val/acc $\uparrow$ & val/loss $\downarrow$" in said("--format", "latex")
    assert "val/acc ↑  val/loss ↓" in said("--group-by", "net")


@pytest.mark.parametrize("name", ["eight", "my sweep", "it's", "r\x1b[2J", "$(x)"])
def test_the_command_that_copies_the_best_of_a_sweep_is_to_be_pasted(name, tmp_path, capsys):
    place = tmp_path / name
    put(place, "000", experiment="digits", value=0.5)
    write_best(place, "max")
    words = capsys.readouterr().out.strip().partition(": ")[2]
    (tmp_path / "conf/experiment").mkdir(parents=True)
    subprocess.run(["bash", "-c", words], cwd=tmp_path, check=True)
    assert (tmp_path / "conf/experiment/NAME.yaml").read_text() == (place / "best.yaml").read_text()


@pytest.mark.usefixtures("logs")
def test_best_is_refused_where_it_means_several_metrics(said):
    for words in ("sort best", "sort -best", "where best>0.1", "best", "--group-by figures sort -best"):
        with pytest.raises(UserError, match=r"several metrics \(val/acc ↑, val/loss ↓\)") as error:
            main(words.split())
        assert "\n" not in str(error.value)
    for words, order in {
        "x/0 x/1 sort best": "10",
        "x/2 x/3 sort best": "23",
        "x/2 x/3 sort -best": "32",
        "sort -val/acc": "1023",
        "sort val/loss": "2301",
    }.items():
        rows = csv.DictReader(io.StringIO(said(*words.split(), "--format", "csv")))
        assert "".join(row["run"][-1] for row in rows) == order, words


@pytest.mark.parametrize(
    ("condition", "found"),
    {
        "figures=false": "013", "figures=False": "013", "figures=0": "013", "figures!=false": "2",
        "optimizer.lr=0.001": "0123", "optimizer.lr<=1e-3": "0123", "optimizer.lr>1e-3": "", "params=null": "0123",
        "run=x/3": "3", "run!=x/3": "012", "began>1971": "", "began<1971-01-01": "0123", "val/acc>=0.25": "1",
        "net='mlp'": "0123", "net=MLP": "",
    }.items(),
)  # fmt: skip
def test_a_condition_compares_values_however_they_are_typed(logs, condition, found):
    assert "".join(run.folder[-1] for run in select(read_runs(logs), [], [condition])) == found


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "NULL": None,
        "true": True,
        "1e3": 1000.0,
        "-2": -2,
        "[8, 8]": "[8,8]",
        '"a b"': "a b",
        "mlp": "mlp",
        "": "",
    }.items(),
)
def test_an_override_has_the_value_that_hydra_gives_it(text, value):
    assert parsed(text) == value
    assert type(parsed(text)) is type(value)


def runs(**overrides):
    return [
        RunInfo(name, dict(word.split("=") for word in words.split()), "finished", 0, name)
        for name, words in overrides.items()
    ]


@cache
def real_config():
    return OmegaConf.to_container(compose_config("train", ["experiment=digits", "trainer=cpu"]))


def configured(logs, folder, commit, data, **changes):
    """A run with the whole of a real config, of which some keys are changed."""
    cfg = OmegaConf.create(real_config())
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    put(logs, folder, net="mlp")
    write_config(logs / folder, cfg)
    write_json(logs / folder / "stamp.json", {"overrides": [], "git": {"commit": commit}, "data": data, "began": 1.0})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"figures": False, "name": "other", "log_dir": "/x", "run": "/y"}, True),
        ({"trainer__enable_progress_bar": False, "data__num_workers": 3, "data__root": "/moved"}, True),
        ({"logger": {"_target_": "lightning.pytorch.loggers.WandbLogger"}, "checkpoint__every_n_steps": 5}, True),
        ({"commit": "def"}, False),
        ({"data": "other samples"}, False),
        ({"seed": 1}, False),
        ({"fold": 0}, False),
        ({"optimizer__lr": 0.5}, False),
        ({"net__name": "figures"}, False),
        ({"task__metrics": {"name": {"_target_": "x"}}}, False),
        ({"callbacks": {"logger": {"_target_": "x"}}}, False),
    ],
    ids=str,
)
def test_runs_with_the_same_config_data_and_commit_are_one_sample(changes, same, tmp_path):
    first = {"commit": "abc", "data": "samples"}
    configured(tmp_path, "a", **first)
    configured(tmp_path, "b", **first | changes)
    assert len(distinct(read_runs(tmp_path))) == (1 if same else 2)
    assert len(distinct(read_runs(tmp_path))) == (1 if same else 2), "the index forgets it"


def test_a_run_whose_config_is_gone_is_a_sample_of_its_own(tmp_path):
    for name in "ab":
        put(tmp_path, name, net="mlp")
        (tmp_path / name / "config.yaml").unlink()
        (tmp_path / name / "config.yaml").symlink_to("/dev/null")
    assert len(distinct(read_runs(tmp_path))) == 2


def test_a_rerun_is_no_new_sample(logs, said):
    stamp = "_rerun_2026-01-02_03-04-05"
    for number, value in enumerate((0.5, 0.7, 0.7)):
        name = "y/1" + (stamp if number == 2 else "") if number else "y/0"
        put(logs, name, net="cnn", seed=min(number, 1), value=value)
    (row,) = csv.DictReader(io.StringIO(said("y", "--group-by", "net", "--format", "csv")))
    assert (row["n"], row["val/acc"]) == ("2", "0.6000 ± 0.1414")
    with pytest.raises(UserError, match="--group-by nte: none of these runs"):
        main(["--group-by", "nte"])


@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_the_table_fits_the_terminal_and_says_what_it_leaves_out(logs, said, columns):
    for number in range(3):
        keys = {f"task.option_{i}": "图" * 30 if i == number else f"x{number}" for i in range(9)}
        put(logs, f"z/{number}", net="mlp", seed=number, **keys)
    whole = said("z", "--all", columns=columns).splitlines()
    table, (last,) = (lines := said("z", columns=columns).splitlines())[:-2], lines[-1:]
    assert max(len(line) + line.count("图") for line in table) <= columns
    assert last.startswith("omitted: ")
    assert last.endswith("--all shows them")
    left = last.removeprefix("omitted: ").partition(";")[0].split(", ")
    assert set(table[0].split()) & set(left) == set()
    assert {"run", "val/acc"} <= set(table[0].split())
    assert "task.option_8" in whole[0]
    assert all(name in whole[0] for name in left)


def test_names_are_safe_in_every_format():
    rows = [{"run": NASTY, NASTY: 1.0, "nan": float("nan"), "surrogate": "caf\udce9"}]
    said = {form: show(rows) for form, show in FORMATS.items()}
    for form, text in said.items():
        assert "\x1b" not in text, form
        text.encode()
    assert len(said["text"].splitlines()) == 2
    assert said["markdown"].splitlines()[2].startswith(r"| a\|b\\c{d}^~\\x1b[2J\\n=x |")
    assert r"a\textbar{}b\textbackslash{}c\{d\}\textasciicircum{}\textasciitilde{}" in said["latex"]
    assert json.loads(said["json"])[0] == {"run": NASTY, NASTY: 1.0, "nan": None, "surrogate": "caf\udce9"}
    assert FORMATS["csv"]([{"=1+1": "@x", "b": "-0.5"}]) == "'=1+1,b\n'@x,-0.5"


def test_rows_without_a_value_come_last():
    rows = [{"a": value} for value in (float("nan"), 3, None, "0.2000 ± 0.1", "", 1)]
    for word, order in {
        "a": ["0.2000 ± 0.1", 1, 3],
        "-a": [3, 1, "0.2000 ± 0.1"],
        "a ↑": ["0.2000 ± 0.1", 1, 3],
    }.items():
        assert [row["a"] for row in sort_rows(rows, [], word)][:3] == order


@pytest.mark.parametrize(("value", "cell"), {1e-5: "1e-05", 3.5e-4: "0.00035", 0.001: "0.0010", 0.0: "0.0000"}.items())
def test_a_small_number_is_not_shown_as_zero(value, cell):
    assert shown(value) == cell


def test_a_narrow_table_keeps_settings_longer_than_further_scores(monkeypatch):
    names = ("run", "status", "seed", "optimizer.lr", "val/acc ↑", "test/acc", "test/f1", "host")
    rows = [dict.fromkeys(names, f"{number}{'x' * 9}") for number in range(2)]
    monkeypatch.setenv("COLUMNS", "70")
    head, *_, last = FORMATS["text"](rows).splitlines()
    assert head.split() == ["run", "status", "optimizer.lr", "val/acc", "↑", "test/acc"]
    assert last == "omitted: host, seed, test/f1; --all shows them"
    monkeypatch.setenv("COLUMNS", "50")
    assert FORMATS["text"](rows).split("\n")[0].split() == ["run", "status", "optimizer.lr", "val/acc", "↑"]


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("log_dir", ["logs", "absolute"])
def test_the_path_of_a_run_in_the_table_is_the_one_that_other_commands_take(tmp_path, said, log_dir):
    log_dir = str(tmp_path / "logs") if log_dir == "absolute" else log_dir
    first, *_ = csv.DictReader(io.StringIO(said("--log-dir", log_dir, "--format", "csv")))
    assert (tmp_path / first["run"] / "config.yaml").is_file()
    for words in ([first["run"]], ["where", f"run={first['run']}"]):
        rows = csv.DictReader(io.StringIO(said(*words, "--log-dir", log_dir, "--format", "csv")))
        assert [row["run"] for row in rows] == [first["run"]]


def test_a_setting_that_was_not_overridden_is_read_from_the_run(tmp_path, said):
    for number, words in enumerate((["net=mlp", "seed=0"], ["net=cnn"], [])):
        configured(tmp_path, f"{number}", "abc", "samples", seed=number, net__widths=[8, number])
        stamp = {"overrides": words, "choices": {"net": "cnn" if number else "mlp"}, "began": number}
        write_json(tmp_path / f"{number}/stamp.json", stamp)

    def found(*conditions):
        table = said("where", *conditions, "--log-dir", str(tmp_path), "--format", "csv")
        return "".join(row["run"][-1] for row in csv.DictReader(io.StringIO(table)))

    assert [found("net=cnn"), found("seed>0"), found("optimizer.lr<1", "trainer.max_epochs>3")] == ["12", "12", "012"]
    groups = csv.DictReader(io.StringIO(said("--group-by", "net", "--log-dir", str(tmp_path), "--format", "csv")))
    assert {row["net"]: row["n"] for row in groups} == {"mlp": "1", "cnn": "2"}


def test_the_setting_of_a_resumed_run_is_the_last_one(logs):
    path = logs / "x/0/stamp.json"
    resumed = [{"time": "", "changes": {"trainer.max_epochs": 7}}, {"time": "", "changes": {"early_stopping": None}}]
    write_json(path, json.loads(path.read_text()) | {"resumed": resumed})
    (logs / ".runs.json").unlink(missing_ok=True)
    run, *others = read_runs(logs)
    assert (run.value("trainer.max_epochs"), run.overrides["early_stopping"]) == (7, "null")
    assert all("trainer.max_epochs" not in other.overrides for other in others)
