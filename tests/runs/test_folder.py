"""A run's folder may come from anywhere: reading it touches it alone, and damage is named in one line."""

import json
import shutil
from types import SimpleNamespace

import pytest
from garbage import GARBAGE
from omegaconf import OmegaConf
from refusals import one_line

from lab import runs
from lab.callbacks.epoch_timer import EpochTimer
from lab.engine import folder as folders
from lab.engine.config.allow import read_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import UserError
from lab.engine.files import read_json, read_metrics
from lab.engine.runs import checkpoints
from lab.engine.runs.index import read_runs
from lab.engine.training.loggers import MetricsCSV
from lab.runs import resume
from lab.runs.finished import restore
from lab.runs.results import recorded
from lab.verbs import report
from lab.verbs import runs as runs_verb

FILES = ("results.json", "stamp.json", "data.json", "config.yaml", "metrics.csv", "last.ckpt", "best.ckpt")


@pytest.fixture(scope="module")
def loaded(digits_run):
    return runs.load(digits_run)


def readers(file, folder, loaded):
    """Whoever reads a file of a run, all of whom refuse a damaged one."""
    cfg, _, task = loaded
    data = SimpleNamespace(found=SimpleNamespace(fingerprint="x"))
    trainer = SimpleNamespace(callbacks=[EpochTimer()], is_global_zero=False)
    return {
        "results.json": [
            lambda: runs.load(folder),
            lambda: resume.best_value(folder),
            lambda: recorded(folder, trainer, task).__enter__(),
            lambda: folders.check_finished(folder),
        ],
        "stamp.json": [
            lambda: add_run_overrides([f"run={folder}"]),
            lambda: resume.merge_config(cfg, folder),
            lambda: resume.record_resume(cfg, {}, folder),
        ],
        "data.json": [
            lambda: runs.load(folder),
            lambda: resume.check_same_data(data, folder),
            lambda: resume.inherited_facts(OmegaConf.create({"finetune": str(folder)}), None),
        ],
        "config.yaml": [
            lambda: runs.load(folder),
            lambda: add_run_overrides([f"run={folder}"]),
            lambda: resume.merge_config(cfg, folder),
            lambda: read_config(folder),
        ],
        "metrics.csv": [lambda: read_metrics(folder / file), lambda: MetricsCSV(folder, 1)],
        "last.ckpt": [lambda: checkpoints.newest(folder), lambda: resume.find_checkpoint(cfg, folder, task)],
        "best.ckpt": [lambda: runs.load(folder), lambda: restore(task, folder)],
    }[file]


def said(work):
    try:
        work()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_in_one_line(file, garbage, digits_run, loaded, tmp_path):
    folder = tmp_path / "runs/bad"
    shutil.copytree(digits_run, folder)
    shutil.copytree(digits_run, tmp_path / "runs/whole")
    (folder / "previous.ckpt").unlink(missing_ok=True)
    (folder / file).write_bytes(GARBAGE[garbage])
    for reader in readers(file, folder, loaded):
        message = said(reader)
        assert one_line(message), "nobody takes it"
        assert file in message or file == "last.ckpt"
    message = said(lambda: report.page([folder])) if garbage == "wrong inside" else None
    assert message is None or one_line(message)
    status = {run.folder: run.status for run in read_runs(tmp_path / "runs")}
    assert status["whole"] == "finished", "a damaged run hides no other"
    if file in ("results.json", "stamp.json"):
        assert status["bad"] == "damaged"
    runs_verb.main(["--log-dir", str(tmp_path / "runs"), "--format", "json"])


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
    MetricsCSV(tmp_path).save()
    assert MetricsCSV(tmp_path, 3).rows == read_metrics(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize("index", [{"bad": 3}, {"bad": {"changed": 0, "run": {"began": 1e300}}}, {"bad": {"run": None}},
                                   {"bad": {"best": {"x": 1}}}])  # fmt: skip
def test_a_damaged_index_of_runs_is_made_again(index, digits_run, tmp_path):
    shutil.copytree(digits_run, tmp_path / "bad")
    (fresh,) = read_runs(tmp_path)
    whole = json.loads((tmp_path / ".runs.json").read_text())["bad"]
    if "best" in index["bad"] if isinstance(index["bad"], dict) else False:
        index = {"bad": whole | {"run": whole["run"] | index["bad"]}}
    (tmp_path / ".runs.json").write_text(json.dumps(index))
    assert read_runs(tmp_path) == [fresh]
