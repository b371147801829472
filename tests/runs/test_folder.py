"""A run's folder may come from anywhere: reading it touches it alone, and damage is named in one line."""

import json
import os
import shutil
import sys
import time
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import PLAIN
from omegaconf import OmegaConf

from lab import runs
from lab.build import build_trainer
from lab.callbacks.epoch_timer import EpochTimer
from lab.engine import folder as folders
from lab.engine.config.allow import read_config, refuse
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.config_file import write_config
from lab.engine.errors import UserError
from lab.engine.files import read_json, read_metrics
from lab.engine.folder import refuse_links
from lab.engine.runs import checkpoints
from lab.engine.runs.index import read_runs
from lab.engine.training.loggers import MetricsCSV
from lab.runs import resume
from lab.runs.finished import read_facts, restore
from lab.runs.refusals import refusals
from lab.runs.results import recorded
from lab.verbs import report
from lab.verbs import runs as runs_verb

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
    "incomplete": json.dumps({"status": "finished", "overrides": [], "began": 1e300}).encode(),
    "no mode": json.dumps({"status": "finished", "best": {"metric": "val/acc", "value": 1.0}}).encode(),
    "null inside": json.dumps({"status": "interrupted", "seconds": None, "overrides": [], "packages": None}).encode(),
    "infinite": b"step,epoch\ninf,0\n", "no step": b"step,epoch\n,0\n", "half a step": b"step,epoch\n1,0.5\n",
    "huge numbers": b'{"overrides": [], "began": 1e999, "status": "finished", "best": {"value": 1e999}}',
    "wrong inside": json.dumps({"status": "finished", "best": {"metric": 1, "value": "x"}, "test": {"a": "b"},
                                "overrides": [1], "git": {"commit": 1}, "resumed": [1]}).encode(),
}  # fmt: skip
FILES = ("results.json", "stamp.json", "data.json", "config.yaml", "metrics.csv", "last.ckpt", "best.ckpt")


@pytest.fixture(scope="module")
def finished(digits_run):
    return digits_run


@pytest.fixture(scope="module")
def loaded(finished):
    return runs.load(finished)


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


def one_line(message):
    return message is not None and message.startswith("error: ") and len(message.splitlines()) == 1


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_in_one_line(file, garbage, finished, loaded, tmp_path):
    folder = tmp_path / "runs/bad"
    shutil.copytree(finished, folder)
    shutil.copytree(finished, tmp_path / "runs/whole")
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


@pytest.fixture(scope="module")
def content(finished):
    return torch.load(finished / "last.ckpt", weights_only=True)


def changed(content, key, value=...):
    """A copy with another value at a key, whose parts `/` separates; without one: without the key."""
    copy = parent = deepcopy(content)
    *parents, last = (int(part) if part.isdecimal() else part for part in key.split("/"))
    for part in parents:
        parent = parent[part]
    parent[last] = value
    if value is ...:
        del parent[last]
    return copy


@pytest.mark.parametrize(
    "key",
    [
        *checkpoints.NEEDED, *(f"last/{key}" for key in checkpoints.NEEDED_LAST), "loops/fit_loop",
        "loops/fit_loop/epoch_progress", "loops/fit_loop/epoch_loop.batch_progress/current",
        "loops/fit_loop/epoch_loop.batch_progress/current/completed", "last/end/early_stopping",
        "callbacks/FiniteGuard/num_skipped", "optimizer_states/0", "optimizer_states/0/state", "lr_schedulers/0",
        "optimizer_states/0/param_groups/0/params",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [..., "x", None], ids=str)
def test_a_checkpoint_that_lacks_an_entry_is_refused(key, value, content, finished):
    checkpoints.check_content(content, finished)
    if key == "last/end/early_stopping" and value is not ...:
        return
    with pytest.raises(UserError, match="a run cannot resume from it: .* is missing or has a wrong type"):
        checkpoints.check_content(changed(content, key, value), finished)


ROWS = {"offered": ["preds"], "rows": {"preds": torch.ones(4, 3)}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sums", ...), ("sums", 3), ("sums", ({},)), ("sums", ({"loss": 1.0}, 1)),
        ("sums", ({"loss": torch.ones(2)}, 1)),
        ("sums", ({"loss": torch.ones(())}, "1")), ("sums", ([], 1)), ("metrics", {"acc.tp": 3}),
        ("pending", ...), ("pending", {"offered": []}), ("pending", {"offered": [], "rows": []}),
        ("pending", ROWS | {"offered": []}), ("pending", ROWS | {"rows": {"preds": [1.0]}}),
        ("pending", ROWS | {"rows": {"preds": torch.ones(())}}),
        ("pending", {"offered": ["a", "b"], "rows": {"a": torch.ones(2), "b": torch.ones(3)}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_checkpoint_of_another_epoch_so_far_is_refused(key, value, content, finished):
    good = changed(content, "epoch_so_far/0/sums", ({"loss": torch.ones(())}, 4))
    good = changed(good, "epoch_so_far/0/pending", ROWS)
    checkpoints.check_content(good, finished)
    with pytest.raises(UserError, match=rf"epoch_so_far\.0\.{key}.* is missing or has a wrong type"):
        checkpoints.check_content(changed(good, f"epoch_so_far/0/{key}", value), finished)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("FiniteGuard", {"x": 1}),
        ("ResumableEarlyStopping{'monitor': 'val/acc'}", {"wait_count": 1}),
        (
            "ResumableEarlyStopping{'monitor': 'val/acc'}",
            {"wait_count": "1", "stopped_epoch": 0, "patience": 1, "best_score": 0.5},
        ),
        ("BestCheckpoint{}", {"best": "x"}),
        ("ModelCheckpoint{'monitor': None}", {"dirpath": "x"}),
        ("EMAWeightAveraging", {}),
        ("Timer", {"time_elapsed": 3.0}),
        ("FiniteGuard", 3),
        ("FiniteGuard", None),
    ],
    ids=str,
)
def test_a_callbacks_state_that_it_could_not_load_is_refused(name, state, content, finished):
    with pytest.raises(UserError, match=r"cannot resume from it: callbacks\..* is missing or"):
        checkpoints.check_content(content | {"callbacks": {name: state}}, finished)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer_states", []),
        ("optimizer_states/0/param_groups", []),
        ("optimizer_states/0/param_groups/0/params", [0]),
        ("optimizer_states/0/state", {99: {}}),
        ("lr_schedulers", []),
        ("state_dict", {}),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_optimizer_is_refused_before_it_is_resumed(key, value, content, loaded, tmp_path):
    cfg, _, task = loaded
    torch.save(changed(content, key, value), tmp_path / "last.ckpt")
    checkpoints.seal(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt"):
        resume.find_checkpoint(cfg, tmp_path, task)


@pytest.mark.parametrize("index", [{"bad": 3}, {"bad": {"changed": 0, "run": {"began": 1e300}}}, {"bad": {"run": None}},
                                   {"bad": {"best": {"x": 1}}}])  # fmt: skip
def test_a_damaged_index_of_runs_is_made_again(index, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "bad")
    (fresh,) = read_runs(tmp_path)
    whole = json.loads((tmp_path / ".runs.json").read_text())["bad"]
    if "best" in index["bad"] if isinstance(index["bad"], dict) else False:
        index = {"bad": whole | {"run": whole["run"] | index["bad"]}}
    (tmp_path / ".runs.json").write_text(json.dumps(index))
    assert read_runs(tmp_path) == [fresh]


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


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("features/label/class_names", [], "features.label.*class_names are empty"),
        ("features/label/class_names", 3, "features.label.class_names: "),
        ("features/label/class_names/0", None, "features.label.class_names.0: "),
        ("features/label/class_names/9", {"_target_": "evil.call"}, "features.label.class_names.9: "),
        ("features/label/class_names", ..., "features.label: class_names: ClassLabel has class_names, entry"),
        ("features/image/image_size", "8", "features.image.image_size: "),
        ("features/image/image_size", -1, "features.image.image_size: "),
        ("features/image/num_channels", 10**9, "features.image.num_channels: "),
        ("features/image/num_channels", 3, "expected mean and std of 3 channels"),
        ("features/image/mean", [], "expected mean and std of 1 channels"),
        ("features/image/mean", ..., "features.image: mean: Image has entry, image_size, mean, num_channels, std"),
        ("features/image/mean/0", "x", "features.image.mean.0: "),
        ("features/image/std/0", 0, "features.image.std.0: "),
        ("features/image/more", 1, "features.image: more: Image has "),
        ("features/image/_target_", "os.system", "features.image: os.system is not a feature"),
        ("features/image/_target_", "evil", "features.image: evil is not a feature"),
        ("features/image/_target_", "../evil.call", "features.image: ../evil.call is not a feature"),
        ("features/a b", {"_target_": "evil.call"}, "features: 'a b' is not a name; expected letters"),
        ("features/image/_target_", "lab.features.image.Imagee", "Did you mean Image?"),
        ("features/image/_target_", "lab.features.image.png", "lab.features.image.png is not a feature"),
        ("features/image/_target_", "lab.nets.mlp.MLP", "lab.nets.mlp.MLP is not a feature"),
        ("features/image/_target_", "lab.features.base.Feature", "lab.features.base.Feature is not a feature"),
        ("features/image/_target_", ["x"], "features.image should name a class with _target_"),
        ("features/image", 3, "features.image should name a class with _target_"),
        ("features/image", ..., "the features of Digits are image: Image, label: ClassLabel"),
        ("features", [], "features should be a mapping"),
        ("features", {}, "the features of Digits are image: Image, label: ClassLabel"),
        ("features", ..., "features is missing"),
        ("num_samples", None, "num_samples or fingerprint: "),
        ("num_samples/train", "3", "num_samples or fingerprint: train: "),
        ("num_samples", ..., "num_samples is missing"),
        ("fingerprint", 3, "fingerprint: "),
    ],
)
def test_facts_that_no_data_has_are_refused(key, value, problem, finished, loaded, tmp_path):
    content = json.loads((finished / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(changed(content, key, value)))
    with pytest.raises(UserError, match=rf"data.json is damaged: .*{problem}") as error:
        read_facts(loaded[1], tmp_path)
    assert one_line(str(error.value))
    assert "evil" not in sys.modules


def test_a_run_of_another_version_of_lab_is_told_from_a_damaged_one(finished, loaded, tmp_path):
    facts, stamp = (json.loads((finished / name).read_text()) for name in ("data.json", "stamp.json"))
    (tmp_path / "data.json").write_text(json.dumps(changed(facts, "features", ...)))
    for content, problem in (
        (stamp, "is damaged: features is missing"),
        (changed(stamp, "format", ...), "cannot be read: features is missing. Another version of lab wrote this run"),
    ):
        (tmp_path / "stamp.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=problem) as error:
            read_facts(loaded[1], tmp_path)
        assert one_line(str(error.value))


@pytest.mark.parametrize("target", ["evil.call", "evil.features.Photo", "evil.deeply.features.Photo"])
def test_features_of_a_package_that_is_not_installed_are_no_damage(target, finished, loaded, tmp_path):
    content = json.loads((finished / "data.json").read_text())
    (tmp_path / "data.json").write_text(json.dumps(changed(content, "features/image/_target_", target)))
    with pytest.raises(UserError) as error:
        read_facts(loaded[1], tmp_path)
    problem = f"features.image: the package evil, which has {target}, is not installed."
    advice = "If it is your own, run lab inside the folder of its project."
    assert str(error.value) == f"error: {tmp_path}/data.json: {problem} {advice}"


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
        runs.load(folder)


PARTS = b"trainer: {}\ndata: {}\nnet: {}\ntask: {}\noptimizer: {}\nscheduler: {}\nlogger: {}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"x" * 2**19, "it is larger than 0.25 MiB"),
        (b"a: [" + b"1," * 100_000 + b"]", "too many entries"),
        (b"".join(b"a%d: 1\n" % i for i in range(20_000)), "too many entries"),
        (b"a: " + b"${b}" * 20_000, "too many references"),
        (b"a: " + b"${" * 20_000, "too many references"),
        (b"# ]]]]]]]]\n" * 100 + b"a: " + b"[" * 20_000, "nested too deeply"),
        (b"a: '" + b"]" * 1000 + b"'\nb: " + b"{a: " * 1000, "nested too deeply"),
        (b"a:\n " + b"- " * 20_000, "nested too deeply"),
        (b"? " * 20_000, "nested too deeply"),
        (b"".join(b" " * i + b"a:\n" for i in range(200)), "nested too deeply"),
        (b"a: &a 1\nb: *a\n", "it has aliases"),
    ],
    ids=range(11),
)
def test_a_config_that_would_take_seconds_is_refused_at_once(text, problem, tmp_path):
    (tmp_path / "config.yaml").write_bytes(PARTS)
    assert read_config(tmp_path).trainer == {}
    (tmp_path / "config.yaml").write_bytes(PARTS + text)
    start = time.process_time()
    with pytest.raises(UserError, match=problem):
        read_config(tmp_path)
    assert time.process_time() - start < 0.5


def test_a_config_with_aliases_is_refused(finished, tmp_path):
    (tmp_path / "config.yaml").write_bytes(GARBAGE["yaml bomb"])
    with pytest.raises(UserError, match="aliases"):
        read_config(tmp_path)


def test_a_config_may_name_a_path_that_is_not_utf_8(finished, tmp_path):
    cfg = read_config(finished)
    cfg.data.root = "caf\udce9"
    write_config(tmp_path, cfg)
    assert read_config(tmp_path).data.root == "caf\udce9"
