"""Objects on the command line replace those of the config; metrics are added from one."""

import json
import shutil
from typing import Any

import pytest
import torch
from conftest import CONF, PLAIN
from omegaconf import OmegaConf
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score
from torchmetrics.wrappers import Running

from lab import runs, train
from lab.engine.config.command_line import check_command_line
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.config.sweep_overrides import parse_overrides
from lab.engine.config.words import literals
from lab.engine.errors import UserError
from lab.engine.runs.index import RunInfo
from lab.metrics.added import refuse_unfit
from lab.runs import resume
from lab.runs.check import check
from lab.sweep.best_yaml import experiment
from lab.sweep.grid import Grid
from lab.tasks.added_metrics import takes_metrics
from lab.tasks.base import Task
from lab.tasks.classification import Classification

AUGMENT = "lab.data.augment.Augment"
FLIP = {"_target_": AUGMENT, "flip": True}
SHIFTED = {"_target_": AUGMENT, "shift": 0.08, "scale": 0.1}
TIMER = "{_target_: lightning.pytorch.callbacks.Timer, duration: '00:00:10:00'}"
DURATION = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "00:00:10:00"}
CALIBRATION = {"_target_": "torchmetrics.CalibrationError", "task": "multiclass"}
QUICK = (*PLAIN, "net=mlp", "net.widths=[4]", "debug=two_batches", "trainer=cpu", "trainer.enable_progress_bar=false")


METRIC = "{_target_: torchmetrics.CalibrationError, task: multiclass}"
OBJECTS = [  # words, a key, and what the config has there
    (["data.augment={flip: true}"], "data.augment", {"_target_": AUGMENT, "flip": True}),
    (["data.augment.crop=2"], "data.augment", SHIFTED | {"rotate": 10, "crop": 2}),
    (["data.augment=null", "data.augment={crop: 1}"], "data.augment", {"_target_": AUGMENT, "crop": 1}),
    (["data=mnist", "data.augment={crop: 2}"], "data.augment", {"_target_": AUGMENT, "crop": 2}),
    (["data.augment={flip: true}", "data.augment.rotate=5"], "data.augment", FLIP | {"rotate": 5}),
    (["data.augment.rotate=5", "data.augment={flip: true}"], "data.augment", FLIP),
    (["~data.augment.rotate", "data.augment.rotate=5"], "data.augment", SHIFTED | {"rotate": 5}),
    (["monitor={metric: val/acc, mode: max}"], "monitor", {"metric": "val/acc", "mode": "max"}),
    ([f"task.metrics={{a: {METRIC}}}"], "task.metrics", {"a": CALIBRATION}),
    ([f"task.metrics.a={METRIC}", "task.metrics.a.n_bins=5"], "task.metrics.a", CALIBRATION | {"n_bins": 5}),
    ([f"task.metrics.b={METRIC}", f"task.metrics={{a: {METRIC}}}"], "task.metrics", {"a": CALIBRATION}),
    ([f"callbacks={{x: {TIMER}}}", "callbacks.x.interval=step"], "callbacks", {"x": DURATION | {"interval": "step"}}),
    ([f"callbacks.x={TIMER}", "callbacks.y={_target_: lightning.pytorch.callbacks.Timer}", "callbacks={}"],
     "callbacks", {}),
    (["trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, filename: p}"],
     "trainer.profiler.filename", "p"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "key", "expected"), OBJECTS)
def test_an_override_of_an_object_is_as_it_is_typed(words, key, expected, tmp_path):
    words = literals(["experiment=digits", *words])
    cfg = compose_config("train", words)
    assert OmegaConf.select(cfg, key) == expected

    place = tmp_path / "run"
    place.mkdir()
    (place / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    (place / "stamp.json").write_text(json.dumps({"overrides": [*words, f"run={place}"]}))
    again = add_run_overrides([*words, f"run={place}"])
    assert check_command_line("train", again) is False
    resumed = compose_config("train", again)
    assert OmegaConf.select(resumed, key) == expected, "the same command, given again, says something else"
    assert resume.merge_config(resumed, place)[1] == {}


@pytest.mark.parametrize("words", [
    ["data.augment={flip: true}"],
    ["data.augment.crop=2", "optimizer=adamw", "optimizer.lr=1e-4"],
    ["~data.augment", "net=mlp", "net.widths=[8,9]", "name=x"],
    ["experiment=cifar10_fast", "data.augment={rotate: 3}", "debug=two_batches", "trainer.max_epochs=3"],
    ["scheduler=one_cycle", "~scheduler.pct_start", f"callbacks.x={TIMER}", f"task.metrics.a={METRIC}"],
])  # fmt: skip
def test_the_best_of_a_sweep_is_the_runs_config(words, tmp_path, monkeypatch):
    words = [*([] if words[0].startswith("experiment") else ["experiment=digits"]), *words]
    wanted = compose_config("train", words)
    run = RunInfo("x", {}, "finished", 0.0, "", best={"metric": "val/acc", "value": 0.5})
    written = experiment([run], [*words, "seed=3", "log_dir=l", f"run={tmp_path}/l"])
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/experiment/best.yaml").write_text(written)
    monkeypatch.setattr("lab.engine.config.compose.CONF", tmp_path / "conf")
    found = compose_config("train", ["experiment=best", *(word for word in words if word.startswith("name="))])
    wanted.name = found.name
    assert found == wanted


def test_a_sweep_over_objects_replaces_them_as_a_run_does(tmp_path):
    words = ["experiment=digits", "data.augment={rotate: 5},{crop: 1}", "data.augment.flip=true"]
    assert check_command_line("train", ["-m", *words])
    grid = Grid(overrides=parse_overrides(words), folder=tmp_path, monitor=OmegaConf.create({}))
    jobs = [compose_config("train", task.overrides).data.augment for task in grid.trials]
    assert jobs == [{"_target_": AUGMENT, "rotate": 5, "flip": True}, {"_target_": AUGMENT, "crop": 1, "flip": True}]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.augment.crops=2", "unknown argument crops. Did you mean crop"),
        ("data.augment={crops: 2}", "unknown argument crops. Did you mean crop"),
        ("data.augment.crop=x", "data.augment.crop=x: should be a valid integer"),
    ],
)
def test_a_wrong_argument_of_an_object_is_named(word, said):
    cfg = compose_config("train", ["experiment=digits", word])
    with pytest.raises(UserError, match=said):
        check(cfg)


def with_metric(compose, metric):
    return compose(*QUICK, f"task.metrics.more={metric}")


@pytest.mark.parametrize(
    "metric",
    [
        "{_target_: torchmetrics.AUROC, task: multiclass}",
        "{_target_: torchmetrics.classification.MulticlassCohenKappa}",
        "{_target_: torchmetrics.CalibrationError, task: multiclass, n_bins: 5}",
    ],
)
def test_a_metric_is_added_from_a_config(metric, compose, tmp_path):
    cfg = with_metric(compose, metric)
    cfg.run, cfg.monitor.metric = str(tmp_path / "run"), "val/more"
    train.main(cfg)
    results = (tmp_path / "run/results.json").read_text()
    assert '"val/more"' in results
    assert '"test/more"' in results
    assert "more" in runs.load(tmp_path / "run")[2].metrics["val"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("{_target_: torchmetrics.AUROC}", "task.metrics.more"),
        ("{_target_: torchmetrics.AUROC, task: many}", "task.metrics.more: .*many"),
        ("{_target_: torchmetrics.AUROC, task: multiclass, average: none}", "it gives more than one number"),
        ("{_target_: torchmetrics.MeanSquaredError}", "it does not take logits and labels"),
        ("{_target_: torchmetrics.Auroc}", "unknown name Auroc"),
        ("{_target_: torch.nn.ReLU}", "is not a torchmetrics metric"),
        ("torchmetrics.AUROC", "task.metrics.more=torchmetrics.AUROC: expected a class"),
        ("{task: multiclass}", "task.metrics.more=.*expected a class"),
        ("{_target_: os.system}", "a config may not call it"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_in_a_line(metric, said, compose):
    with pytest.raises(UserError, match=said) as refusal:
        train.main(with_metric(compose, metric))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["loss", "acc", "f1", "each", "acc/0", "items", "prefix", "a.b"])
def test_a_metric_takes_no_other_place(name):
    with pytest.raises(ValueError, match=f"metrics.{name}: .*choose another"):
        Classification(2, ["a", "b"], metrics={name: BinaryF1Score()}, net=None, optimizer=None, scheduler=None)


@pytest.mark.parametrize(
    "metric",
    [
        MulticlassAUROC(3),
        MulticlassAccuracy(3, dist_sync_on_step=True),
        MulticlassAccuracy(3) + MulticlassF1Score(3),
        Running(MulticlassAccuracy(3), window=2),
    ],
)
def test_a_metric_is_tried_by_each_process_alone(metric, monkeypatch):
    gathered = []

    def gather(value, *_, **__):
        gathered.append(value)  # the other process waits elsewhere
        return [value]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr("torchmetrics.metric.gather_all_tensors", gather)
    try:
        refuse_unfit("more", metric, 3, ())
    finally:
        assert not gathered
    assert all(part.sync_on_compute for part in metric.modules() if hasattr(part, "sync_on_compute"))


class Inherits(Classification):
    pass


class PassesOn(Classification):
    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class PassesOnTwice(PassesOn):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class HasItsOwn(Classification):
    def __init__(self, num_classes: int, class_names: list[str]) -> None:
        super().__init__(num_classes, class_names)


class IsNoClassifier(Task):
    pass


class IsNoClassifierEither(Task):
    def __init__(self, width: int = 1, **kwargs: Any) -> None:
        super().__init__(metrics={}, **kwargs)


class HasACollectionForEachStage(Task):
    def __init__(self, metrics: dict[str, MetricCollection] | None = None, **kwargs: Any) -> None:
        super().__init__(metrics=metrics, **kwargs)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Classification, True), (Inherits, True), (PassesOn, True), (PassesOnTwice, True), (HasItsOwn, False),
        (IsNoClassifier, False), (IsNoClassifierEither, False),
        (HasACollectionForEachStage, False),
    ],
)  # fmt: skip
def test_a_task_that_hands_metrics_on_to_classification_takes_some(task, expected):
    assert takes_metrics(task) == expected
