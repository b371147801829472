"""The contract of every task; then one step, three stages, an optimizer and a schedule by config."""

import copy
import json
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
from hydra.utils import instantiate
from sklearn.metrics import accuracy_score, f1_score
from steps import step_losses
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lab import runs
from lab.build import build_task, build_trainer, read_data
from lab.callbacks.lookahead import Lookahead
from lab.callbacks.step_seed import StepSeed
from lab.engine.errors import UserError
from lab.optim import BiasSGD, MuonAdamW, triangle, warmup_cosine
from lab.testing import ClassifierContract, TaskContract

QUICK = PLAIN


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


class TestClassification(ClassifierContract):
    config = ("experiment=digits", "data.tiny=true")

    def test_the_first_loss_is_that_of_a_guess(self, task, batch):
        assert task.eval().step(batch, "val").loss.item() == pytest.approx(math.log(10), abs=0.3)


@pytest.fixture
def classifier(compose):
    return build(compose(*QUICK, "net=mlp"))


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
    cfg = compose(*QUICK, "net=mlp", "task.label_smoothing=0.2")
    data = read_data(cfg)
    task = build_task(cfg, data.facts)
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())))
    logits = task(batch)
    expected = F.cross_entropy(logits, batch["label"], label_smoothing=0.2)
    assert task.train().step(batch, "train").loss.item() == pytest.approx(expected.item())
    assert task.eval().step(batch, "val").loss.item() == pytest.approx(F.cross_entropy(logits, batch["label"]).item())


def test_the_loss_of_an_epoch_weighs_samples_not_batches(compose, trained):
    folder = trained(*QUICK, "net=mlp", "trainer.max_epochs=1", "data.batch_size=16")
    _, data, task = runs.load(folder)
    data.setup("test")
    batches = [data.on_after_batch_transfer(batch) for batch in data.test_dataloader()]
    assert len({len(batch["label"]) for batch in batches}) > 1, "all batches have one size: nothing is shown"
    with torch.no_grad():
        losses = [F.cross_entropy(task(batch), batch["label"], reduction="none") for batch in batches]
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["test/loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


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


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_learns_a_batch_by_heart(compose, optimizer, tmp_path):
    cfg = compose(*QUICK, "net=mlp", f"optimizer={optimizer}", "trainer.overfit_batches=1", "trainer.max_epochs=60")
    cfg.optimizer.lr = {"gd": 0.1, "sgd": 0.02, "bias_sgd": 0.02}.get(optimizer, 0.003)
    losses = step_losses(cfg, 60, tmp_path / "x")
    assert losses[0] > 2
    assert losses[-1] < 0.1


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_schedules_last_as_long_as_the_run(compose, scheduler, tmp_path):
    cfg = compose(*QUICK, "net=mlp", f"scheduler={scheduler}", "trainer.max_epochs=12")
    data = read_data(cfg)
    trainer = build_trainer(cfg, tmp_path)
    rates = Rates()
    trainer.callbacks.append(rates)
    trainer.fit(build_task(cfg, data.facts), data)
    assert len(rates.values) == 12 * len(data.train_dataloader())
    assert max(rates.values) == pytest.approx(cfg.optimizer.lr, rel=0.05)
    if scheduler == "constant":
        assert min(rates.values) == max(rates.values)
    else:
        assert rates.values[-1] < 0.15 * max(rates.values)
        assert rates.values[0] < max(rates.values)


class Rates(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, *_):
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_warmup_cosine_rises_falls_and_ends_at_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = warmup_cosine(optimizer, total_steps=100, warmup=0.1), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def test_triangle_goes_up_and_down_in_straight_lines():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler, rates = triangle(optimizer, total_steps=100, peak=0.2, start=0.5, end=0.1), []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:21] == pytest.approx(torch.linspace(1, 2, 21).tolist())
    assert rates[20:] == pytest.approx(torch.linspace(2, 0.2, 81).tolist())


def test_bias_sgd_moves_norms_further_and_decays_all_alike():
    def moved(scale, decay):
        net = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
        for p in net.parameters():
            nn.init.ones_(p)
            p.grad = torch.ones_like(p) if not decay else torch.zeros_like(p)
        BiasSGD(net.named_parameters(), lr=0.1, momentum=0.5, weight_decay=decay, bias_scale=scale).step()
        return [1 - p.flatten()[0].item() for p in (net.linear.bias, net.norm.bias)]

    weight, bias = moved(scale=4, decay=0)
    assert weight == pytest.approx(0.1 * 1.5)
    assert bias == pytest.approx(4 * 0.1 * 1.5)
    assert moved(scale=4, decay=0.01)[0] == pytest.approx(moved(scale=4, decay=0.01)[1], rel=1e-4)


def test_lookahead_goes_back_to_the_slow_weights_and_ends_on_them():
    task = nn.Module()
    task.net = nn.Linear(1, 1, bias=False)
    trainer, lookahead = SimpleNamespace(global_step=0, estimated_stepping_batches=5), Lookahead(every=2, decay=0.8)
    nn.init.zeros_(task.net.weight)
    lookahead.on_train_start(trainer, task)
    weights = []
    for step in range(1, 6):
        with torch.no_grad():
            task.net.weight += 1
        for trainer.global_step in (step - 1, step):  # two batches to a step
            lookahead.on_train_batch_end(trainer, task, None, None, 0)
        weights.append(task.net.weight.item())
    first = 2 * (1 - 0.8 * 0.4**3)  # at two fifths of the run
    second = first + 2 * (1 - 0.8 * 0.8**3)
    assert weights == pytest.approx([1, first, first + 1, second, second])


def test_lookahead_averages_all_weights_and_no_metric():
    task = nn.Module()
    task.net, task.discriminator, task.metrics = nn.BatchNorm1d(1), nn.Linear(1, 1), MeanMetric()
    task.scale = nn.Parameter(torch.zeros(()))
    task.metrics.persistent(True)
    trainer, lookahead = SimpleNamespace(global_step=0, estimated_stepping_batches=1), Lookahead(every=2, decay=0.5)
    lookahead.on_train_start(trainer, task)
    slow = {name: value.clone() for name, value in task.state_dict().items()}
    with torch.no_grad():
        for value in task.state_dict().values():
            value += 1
    task.metrics.update(5.0)
    trainer.global_step = 1
    lookahead.on_train_batch_end(trainer, task, None, None, 0)
    kept = {"net.num_batches_tracked", "metrics.mean_value", "metrics.weight"}
    assert {name for name, value in task.state_dict().items() if not value.equal(slow[name])} == kept


class TestMuon:
    def net(self):
        torch.manual_seed(0)
        layers = {"embed": nn.Embedding(7, 6), "conv": nn.Conv1d(6, 6, 3), "norm": nn.LayerNorm(6)}
        return nn.ModuleDict(layers | {"hidden": nn.Linear(6, 5), "head": nn.Linear(5, 4)})

    def test_touches_hidden_matrices_only(self):
        optimizer = MuonAdamW(self.net().named_parameters(), lr=1e-3)
        muon, adamw = (group["param_names"] for group in optimizer.param_groups)
        assert muon == ["hidden.weight"]
        assert len(adamw) == 8

    def test_steps_as_its_two_parts_would(self):
        net, twin = self.net(), self.net()
        together = MuonAdamW(net.named_parameters(), lr=0.01, weight_decay=0.3, momentum=0.8)  # no default of its parts
        rest = [p for name, p in twin.named_parameters() if name != "hidden.weight"]
        apart = [
            torch.optim.Muon([twin["hidden"].weight], 0.01, 0.3, 0.8, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, 0.01, weight_decay=0.3),
        ]
        for step in range(3):
            for model in (net, twin):
                for i, p in enumerate(model.parameters()):
                    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
            together.step()
            [part.step() for part in apart]
        assert all(p.equal(q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))

    def test_refuses_a_net_without_a_hidden_matrix(self):
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        with pytest.raises(UserError, match="no hidden matrix for Muon"):
            MuonAdamW(net.named_parameters(), lr=0.01)

    def test_state_round_trip_goes_on_as_before(self):
        net = self.net()
        optimizer = MuonAdamW(net.named_parameters(), lr=0.01)

        def step(model, opt, seed):
            for i, p in enumerate(model.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
            opt.step()

        step(net, optimizer, 0)
        twin = copy.deepcopy(net)
        other = MuonAdamW(twin.named_parameters(), lr=0.5)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step(net, optimizer, 50)
        step(twin, other, 50)
        assert all(p.equal(q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))

    def test_one_learning_rate_is_scheduled_for_both(self):
        optimizer = MuonAdamW(self.net().named_parameters(), lr=1.0)
        scheduler = instantiate({"_target_": "torch.optim.lr_scheduler.LambdaLR", "_partial_": True})(
            optimizer, lambda step: 0.5
        )
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
        assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.5, 0.5]
        assert scheduler


def test_an_argument_of_forward_that_no_batch_has_is_named(compose):
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    task, batch = build(compose("experiment=digits", "data.tiny=true", "net=mlp"))
    task = type(task)(net=Net(), optimizer=None, scheduler=None, num_classes=10, class_names=task.class_names)
    message = "net: x is an argument of forward, but not an entry of the batch. The entries are image, label, index"
    with pytest.raises(UserError, match=message):
        task.step(batch, "val")
