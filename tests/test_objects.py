"""Objects on the command line replace those of the config; metrics are added from one."""

import pytest
from conftest import PLAIN

from lab import config, run, train
from lab.check import check
from lab.errors import UserError
from lab.objects import replaced

AUGMENT = "lab.data.augment.Augment"
QUICK = (*PLAIN, "net=mlp", "net.widths=[4]", "debug=two_batches", "trainer=cpu", "trainer.enable_progress_bar=false")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.augment={flip: true}"], {"_target_": AUGMENT, "flip": True}),
        (["data.augment={_target_: lab.data.augment.Augment, crop: 2}"], {"_target_": AUGMENT, "crop": 2}),
        (["data.augment.crop=2"], {"_target_": AUGMENT, "rotate": 10, "shift": 0.08, "scale": 0.1, "crop": 2}),
        (["data.augment.rotate=5"], {"_target_": AUGMENT, "rotate": 5, "shift": 0.08, "scale": 0.1}),
        (["data.augment=null"], None),
    ],
)
def test_a_dictionary_replaces_an_object(words, expected):
    given = replaced("train", ["experiment=digits", *words])
    config.check_command_line("train", given)
    assert config.compose("train", given).data.augment == expected
    assert replaced("train", given) == given, "a run's own words, given again, stay"


def test_a_dictionary_stands_in_for_null():
    given = replaced("train", ["experiment=digits", "data=mnist", "data.augment={crop: 2}"])
    assert config.compose("train", given).data.augment._target_ == AUGMENT
    monitor = replaced("train", ["experiment=digits", "monitor={metric: val/loss, mode: min}"])
    assert monitor == ["experiment=digits", "monitor={metric: val/loss, mode: min}"], "a plain mapping"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.augment.crops=2", "unknown argument crops. Did you mean crop"),
        ("data.augment={crops: 2}", "unknown argument crops. Did you mean crop"),
        ("data.augment.crop=x", "data.augment.crop=x: should be a valid integer"),
    ],
)
def test_a_wrong_argument_of_an_object_is_named(word, said):
    cfg = config.compose("train", replaced("train", ["experiment=digits", word]))
    with pytest.raises(UserError, match=said):
        check(cfg)


def with_metric(compose, metric):
    return compose(*replaced("train", [*QUICK, f"task.metrics.more={metric}"]))


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
    assert "more" in run.load(tmp_path / "run")[2].metrics["val_"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("{_target_: torchmetrics.AUROC}", "task.metrics.more"),
        ("{_target_: torchmetrics.AUROC, task: many}", "task.metrics.more: .*many"),
        ("{_target_: torchmetrics.AUROC, task: multiclass, average: none}", "it gives more than one number"),
        ("{_target_: torchmetrics.MeanSquaredError}", "it does not take logits and labels"),
        ("{_target_: torchmetrics.Auroc}", "unknown name Auroc"),
        ("{_target_: torch.nn.ReLU}", "is no metric of torchmetrics"),
        ("{_target_: os.system}", "not among what a config may call"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_in_a_line(metric, said, compose):
    with pytest.raises(UserError, match=said) as refusal:
        train.main(with_metric(compose, metric))
    assert len(str(refusal.value).splitlines()) == 1
