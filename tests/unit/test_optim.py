"""Optimizers, schedules and Lookahead, step by step."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torchmetrics import MeanMetric

from lab.callbacks.lookahead import Lookahead
from lab.engine.errors import UserError
from lab.optim import BiasSGD, MuonAdamW, triangle, warmup_cosine


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
        vectors = {"depthwise": nn.Conv1d(6, 6, 3, groups=6), "scale": nn.ParameterList([torch.ones(6, 1, 1)])}
        return nn.ModuleDict(layers | vectors | {"hidden": nn.Linear(6, 5), "head": nn.Linear(5, 4)})

    def test_touches_hidden_matrices_and_convolutions_only(self):
        optimizer = MuonAdamW(self.net().named_parameters(), lr=1e-3)
        muon, adamw = (group["param_names"] for group in optimizer.param_groups)
        assert muon == ["conv.weight", "hidden.weight"]
        assert len(adamw) == 10

    def test_steps_as_its_two_parts_would(self):
        net, twin = self.net(), self.net()
        together = MuonAdamW(net.named_parameters(), lr=0.01, weight_decay=0.3, momentum=0.8)  # no default of its parts
        rest = [p for name, p in twin.named_parameters() if name not in ("hidden.weight", "conv.weight")]
        filters = nn.Parameter(twin["conv"].weight.data.flatten(1))  # shares the memory
        apart = [
            torch.optim.Muon([twin["hidden"].weight, filters], 0.01, 0.3, 0.8, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, 0.01, weight_decay=0.3),
        ]
        for step in range(3):
            for model in (net, twin):
                for i, p in enumerate(model.parameters()):
                    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
            filters.grad = twin["conv"].weight.grad.flatten(1)
            together.step()
            [part.step() for part in apart]
        assert all(p.equal(q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))

    def test_refuses_a_net_without_a_hidden_matrix(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
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
