"""The contract of every task, without its run; then one step of a classifier, and three stages."""

import math
import random
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PLAIN, fitting, options
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from lab.build import build_task, read_data
from lab.callbacks.step_seed import StepSeed
from lab.engine.errors import UserError
from lab.testing import ClassifierContract, TaskContract


def build(cfg):
    """A task, and a batch."""
    L.seed_everything(0, verbose=False)
    data = read_data(cfg)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    return build_task(cfg, data.facts), batch


class TestEveryTask(TaskContract):
    @pytest.fixture(params=[name for name in options("task") if name != "classification"])
    def overrides(self, request):
        return [fitting(f"task={request.param}"), f"task={request.param}", "data.tiny=true"]

    test_a_run_that_is_resumed_ends_as_one_that_was_not = None  # runs/test_task_contract.py


class TestClassification(ClassifierContract):
    config = ("experiment=digits", "data.tiny=true")
    test_a_run_that_is_resumed_ends_as_one_that_was_not = None

    def test_the_first_loss_is_that_of_a_guess(self, task, batch):
        assert task.eval().step(batch, "val").loss.item() == pytest.approx(math.log(10), abs=0.3)


@pytest.fixture
def classifier(compose):
    return build(compose(*PLAIN, "net=mlp"))


def test_metrics_agree_with_sklearn(classifier):
    task, _ = classifier
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(3, 40, 10, generator=generator), torch.randint(10, (3, 40), generator=generator)
    metrics = task.metrics["test"]
    for i in range(3):
        metrics.update(preds=logits[i], target=label[i])
    values = metrics.compute()
    predicted, true = logits.argmax(-1).flatten(), label.flatten()
    assert values["acc"].item() == pytest.approx(accuracy_score(true, predicted))
    assert values["f1"].item() == pytest.approx(f1_score(true, predicted, average="macro"))
    for c in range(10):
        assert values[f"acc/{c}"].item() == pytest.approx((predicted[true == c] == c).double().mean().item())


def test_label_smoothing_is_for_training_alone(compose):
    cfg = compose(*PLAIN, "net=mlp", "task.label_smoothing=0.2")
    data = read_data(cfg)
    task = build_task(cfg, data.facts)
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())))
    logits = task(batch)
    expected = F.cross_entropy(logits, batch["label"], label_smoothing=0.2)
    assert task.train().step(batch, "train").loss.item() == pytest.approx(expected.item())
    assert task.eval().step(batch, "val").loss.item() == pytest.approx(F.cross_entropy(logits, batch["label"]).item())


def test_a_batch_without_a_number_spoils_the_mean_instead_of_leaving_it(classifier):
    task, batch = classifier
    logged = {}
    task.log_dict = lambda values, **_: logged.update(values)
    nan = batch | {"image": torch.full_like(batch["image"], torch.nan)}
    for batches, spoiled in (([batch, batch], False), ([batch, nan], True), ([batch], False)):
        for one in batches:
            task.validation_step(one, 0)
        task.on_validation_epoch_end()
        assert logged["val/loss"].isnan() == spoiled


def test_the_metrics_of_an_epoch_are_of_that_epoch_alone(classifier):
    task, batch = classifier
    logged = {}
    task.log_dict = lambda values, **_: logged.update(values)
    guess = task(batch).argmax(-1)
    for label, acc in ((guess, 1.0), ((guess + 1) % 10, 0.0)):
        task.validation_step(batch | {"label": label}, 0)
        task.on_validation_epoch_end()
        assert logged["val/acc"] == acc


def test_what_a_step_draws_depends_on_seed_epoch_batch_and_process():
    def drawn(seed=0, epoch=0, batch_idx=0, rank=0):
        trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        StepSeed(seed).on_train_batch_start(trainer, None, None, batch_idx)
        return torch.rand(()).item(), np.random.rand(), random.random()

    first = drawn()
    assert drawn() == first
    others = [drawn(seed=1), drawn(epoch=1), drawn(batch_idx=1), drawn(rank=1)]
    assert all(len(set(column)) == 5 for column in zip(first, *others, strict=True))


def test_an_argument_of_forward_that_no_batch_has_is_named(compose):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    task, batch = build(compose("experiment=digits", "data.tiny=true", "net=mlp"))
    task = type(task)(net=Net(), optimizer=None, scheduler=None, num_classes=10, class_names=task.class_names)
    message = "net: x is an argument of forward, but not an entry of the batch. The entries are image, label, index"
    with pytest.raises(UserError, match=message):
        task.step(batch, "val")
