"""Several named optimizers in one task, a GAN: what each learns from, how they are configured, exact resume."""

import copy
import multiprocessing
import os
import re
import signal
import socket

import lightning as L
import pytest
import torch
from conftest import PLAIN
from gan import Gan
from omegaconf import OmegaConf
from resuming import outcome, stopped
from torch import nn

from lab import train
from lab.build import build_trainer
from lab.engine.config import allow
from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.engine.runs import checkpoints
from lab.engine.training.lightning_quirks import filter_warnings
from lab.optim import BiasSGD, MuonAdamW
from lab.runs import check
from lab.runs.open import Run
from lab.tasks.base import Step
from lab.tasks.optimizers import NamedOptimizers
from lab.testing.tasks import same
from lab.train import prepare
from lab.verbs.tune import finders
from lab.verbs.tune import main as tune

FORK = multiprocessing.get_context("fork")
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01, "betas": [0.5, 0.9]}
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.5}
CYCLE = {"_target_": "lab.optim.one_cycle", "_partial_": True}
COSINE = {"_target_": "lab.optim.warmup_cosine", "_partial_": True}
MUON = {"_target_": "lab.optim.MuonAdamW", "_partial_": True, "lr": 0.01}
LBFGS = {"_target_": "torch.optim.LBFGS", "_partial_": True, "lr": 0.01}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "_partial_": True, "factor": 1.0, "total_iters": 0}
BOTH = {"generator": ADAM, "discriminator": SGD}
STATIC = "trainer.strategy={_target_: lightning.pytorch.strategies.DDPStrategy, static_graph: true}"
SCHEDULES = {"discriminator": COSINE, "generator": CYCLE}


@pytest.fixture(autouse=True)
def fork(monkeypatch):
    monkeypatch.setattr(allow, "MODULES", (*allow.MODULES, "gan"))


@pytest.fixture
def gan(compose, tmp_path):
    """The config of a GAN on 8 × 8 digits, of four batches an epoch."""

    def gan(*words, optimizer=BOTH, scheduler=SCHEDULES, noise=True):
        cfg = compose(
            *PLAIN, "data.image_size=8", "data.batch_size=32", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
            "checkpoint.every_n_steps=3", "monitor={metric: val/loss, mode: min}", *words,
        )  # fmt: skip
        OmegaConf.set_struct(cfg, False)
        cfg.net, cfg.task = {"_target_": "gan.Generator"}, {"_target_": "gan.Gan", "noise": noise}
        cfg.optimizer, cfg.scheduler = optimizer, scheduler
        return cfg

    return gan


class Batches(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.values.append(batch)


def weights(task):
    return torch.cat([p.detach().flatten() for p in task.parameters()])


@pytest.mark.parametrize(("every", "clip"), [(1, None), (1, 0.05), (3, None)])
def test_each_optimizer_learns_from_its_own_loss_alone(gan, every, clip, tmp_path):
    """As a plain loop does, which asks autograd for the gradient of each loss by its optimizer's parameters."""
    words = [f"trainer.accumulate_grad_batches={every}", f"trainer.gradient_clip_val={clip or 'null'}"]
    cfg = gan(*words, scheduler=CONSTANT, noise=False)
    data, task = prepare(Run(cfg))
    twin, seen = copy.deepcopy(task), Batches()
    trainer = build_trainer(cfg, tmp_path)
    trainer.callbacks.append(seen)
    trainer.fit(task, data)

    optimizers = {"generator": torch.optim.Adam(twin.net.parameters(), 0.01, (0.5, 0.9))}
    optimizers["discriminator"] = torch.optim.SGD(twin.discriminator.parameters(), 0.1, 0.5)
    epochs = [seen.values[: len(seen.values) // 2], seen.values[len(seen.values) // 2 :]]
    groups = [epoch[i : i + every] for epoch in epochs for i in range(0, len(epoch), every)]
    assert len(groups[1]) < every or every == 1, "the last of an epoch has fewer batches"
    for group in groups:
        total = sum(len(batch["index"]) for batch in group)
        for p in twin.parameters():
            p.grad = torch.zeros_like(p)
        for batch in group:
            parts = twin.step(batch, "train").parts
            for name, optimizer in optimizers.items():
                own = optimizer.param_groups[0]["params"]
                found = torch.autograd.grad(parts[name], own, retain_graph=True)
                for p, gradient in zip(own, found, strict=True):
                    p.grad += gradient * len(batch["index"]) / total
        if clip:
            assert nn.utils.clip_grad_norm_(twin.parameters(), clip) > clip, "nothing to clip"
        for optimizer in optimizers.values():
            optimizer.step()
    torch.testing.assert_close(weights(task), weights(twin), rtol=1e-4, atol=1e-5)


LOOKAHEAD = "+callbacks.lookahead={_target_: lab.callbacks.lookahead.Lookahead, every: 2}"


@pytest.mark.parametrize(
    ("batch", "words", "kinds"),
    [
        (4, ["ema=0.9", LOOKAHEAD], {}),
        (6, ["trainer.accumulate_grad_batches=3"], {"optimizer": {"generator": MUON, "discriminator": SGD}}),
        (7, [], {"optimizer": ADAM, "scheduler": CYCLE}),
    ],
    ids=str,
)
def test_a_killed_run_ends_as_one_that_was_not(gan, batch, words, kinds, tmp_path):
    train.main(gan(f"run={tmp_path}/whole", *words, **kinds))
    stopped(batch, signal.SIGKILL, start=lambda: train.main(gan(f"run={tmp_path}/cut", *words, **kinds)))
    assert (tmp_path / "cut/last.ckpt").exists()
    train.main(gan(f"run={tmp_path}/cut", *words, **kinds))
    (state, rows), whole = (outcome(tmp_path / name) for name in ("cut", "whole"))
    assert same((state, rows), whole)
    assert {"lr/generator", "lr/discriminator"} <= {name.removesuffix("/pg1") for name in rows[0]}


def test_a_step_that_is_not_finite_is_left_out_by_both_optimizers(gan, monkeypatch, tmp_path):
    right = Gan.step

    def step(task, batch, stage):
        found = right(task, batch, stage)
        if stage == "train" and task.global_step == 2:
            found.parts["generator"] = found.parts["generator"] * float("nan")
        return found

    monkeypatch.setattr(Gan, "step", step)
    with pytest.raises(RunError, match="the gradient is nan at step 2"):
        train.main(gan(f"run={tmp_path}/stop"))
    train.main(gan(f"run={tmp_path}/skip", "not_finite=skip"))
    last = checkpoints.read(tmp_path / "skip/last.ckpt")
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    assert last["callbacks"]["FiniteGuard"]["num_skipped"] == 1
    state = last["optimizer_states"][0]["state"]
    assert [state[i]["step"].item() for i in range(4)] == [last["global_step"] - 1] * 4, "the generator's Adam"


def test_any_optimizers_step_and_are_restored_as_they_are_alone():
    def nets():
        torch.manual_seed(0)
        return nn.ModuleList(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(4))

    def alone(nets):
        named = [[(f"norm.{name}" if "2." in name else name, p) for name, p in net.named_parameters()] for net in nets]
        return {
            "muon": MuonAdamW(named[0], lr=0.1), "bias": BiasSGD(named[1], lr=0.01),
            "adagrad": torch.optim.Adagrad(named[2], lr=0.1, initial_accumulator_value=0.3),
            "adam": torch.optim.Adam([{"params": [p], "name": name} for name, p in named[3]], lr=0.1, fused=True),
        }  # fmt: skip

    def step(nets, optimizers, seed):
        for i, p in enumerate(nets.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
        for optimizer in optimizers:
            optimizer.step()

    one, other = nets(), nets()
    joined, parts = NamedOptimizers(alone(one)), alone(other).values()
    names = [group["name"] for group in joined.param_groups]
    assert names[:5] == ["muon/pg1", "muon/pg2", "bias/pg1", "bias/pg2", "adagrad"]
    assert names[5:] == [
        f"adam/{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias", "norm.2.weight", "norm.2.bias")
    ]
    for seed in (0, 100):
        step(one, [joined], seed)
        step(other, parts, seed)
        assert weights(one).equal(weights(other))
    again = NamedOptimizers(alone(one))
    again.load_state_dict(copy.deepcopy(joined.state_dict()))
    step(one, [again], 200)
    step(other, parts, 200)
    assert weights(one).equal(weights(other))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"optimizer": {"generator": ADAM}}, "optimizer.discriminator: the task needs it"),
        ({"optimizer": BOTH | {"generatr": SGD}}, "optimizer: unknown name generatr. Did you mean generator?"),
        ({"scheduler": {"a": CYCLE, "b": CYCLE}}, "scheduler: unknown name a. There are: discriminator, generator."),
        ({"scheduler": {"generator": CYCLE}}, "scheduler.discriminator: the task needs it"),
        ({"optimizer": {"generator": LBFGS, "discriminator": ADAM}}, "optimizer: LBFGS evaluates the loss again"),
        ({"optimizer": LBFGS}, "optimizer: LBFGS evaluates the loss again"),
    ],
    ids=str,
)
def test_names_that_are_not_the_task_s_are_refused(gan, kinds, message):
    with pytest.raises(UserError, match=f"^error: {re.escape(message)}"):
        prepare(Run(gan(**kinds)))


@pytest.mark.parametrize(
    ("kinds", "words", "message"),
    [
        (
            {"optimizer": {"generator": ADAM, "discriminator": SGD | {"lr": -1}}},
            [],
            "optimizer.discriminator: Invalid lear",
        ),
        (
            {"optimizer": {"generator": ADAM | {"momentun": 1}, "discriminator": SGD}},
            [],
            "optimizer.generator: unknown arg",
        ),
        (
            {"optimizer": {"generator": {"lr": 1}, "discriminator": SGD}},
            [],
            "optimizer.generator: expected an object with",
        ),
        ({"optimizer": {}}, [], "optimizer: expected an object with a _target_, or a mapping"),
        ({"scheduler": None}, [], "scheduler: expected an object with a _target_, or a mapping"),
        ({"scheduler": {"generator": CYCLE, "discriminator": 3}}, [], "scheduler.discriminator: expected an object"),
        ({"scheduler": SCHEDULES | {"generator": CYCLE | {"pct_start": 7}}}, [], "scheduler.generator: Expected float"),
        ({}, ["trainer.precision=16-mixed"], "trainer.precision=16-mixed: it supports one loss"),
        ({}, ["trainer.strategy=fsdp"], "trainer.strategy=fsdp: it supports one loss"),
        ({}, ["trainer.strategy=deepspeed_stage_2"], "trainer.strategy=deepspeed_stage_2: it supports one loss"),
        (
            {},
            ["trainer.strategy=ddp_find_unused_parameters_true"],
            "trainer.strategy=ddp_find_unused_parameters_true: it",
        ),
        ({}, [STATIC], "trainer.strategy=DDPStrategy: it supports one loss"),
        ({}, ["compile=true"], "compile=True: a compiled net cannot be differentiated once per optimizer"),
        (
            {},
            ["compile=max-autotune"],
            "compile=max-autotune: a compiled net cannot be differentiated once per optimizer",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused_before_the_data_is_read(gan, kinds, words, message):
    with pytest.raises(UserError) as refused:
        check.check(gan(*words, **kinds))
    assert f"error: {message}" in str(refused.value)


@pytest.mark.parametrize("word", ["trainer.precision=16-mixed", "trainer.strategy=fsdp", "compile=reduce-overhead"])
def test_one_target_for_all_is_refused_where_the_task_has_several(gan, word):
    with pytest.raises(UserError, match=f"{word}: (it supports one loss|a compiled net)"):
        prepare(Run(gan(word, optimizer=ADAM)))
    prepare(Run(gan("trainer.precision=bf16-mixed", optimizer=ADAM)))


def test_names_for_a_task_with_one_optimizer_are_refused(compose):
    cfg = compose(*PLAIN, "net=mlp")
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = BOTH
    with pytest.raises(UserError, match="the task has one optimizer; expected a _target_, got the names generator, di"):
        prepare(Run(cfg))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (lambda task: {"a": task.net.named_parameters(), "b": []}, "discriminator.0.weight, discriminator.0.bias, "),
        (lambda task: {"a": task.named_parameters(), "b": task.net.named_parameters()}, "net.layers.1.weight, net.lay"),
        (
            lambda task: {"a": task.net.named_parameters()},
            "discriminator.2.weight and 1 more are given to no optimizer",
        ),
    ],
)
def test_a_parameter_has_one_optimizer(gan, shares, message, monkeypatch):
    monkeypatch.setattr(Gan, "parameters_of", shares)
    with pytest.raises(UserError, match=message):
        prepare(Run(gan(optimizer=ADAM, scheduler=CYCLE)))[1].build_optimizer()


def test_a_loss_without_an_optimizer_s_name_is_refused(gan, monkeypatch, tmp_path):
    monkeypatch.setattr(Gan, "step", lambda task, batch, stage: Step(task.net(batch["image"]).mean()))
    with pytest.raises(UserError, match="step: Step.parts has no loss named generator, which the optimizer"):
        train.main(gan())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("generator", lambda task, batch, losses: losses["discriminator"]),
        ("generator", lambda task, batch, losses: losses["generator"].detach()),
        ("discriminator", lambda task, batch, losses: task.net(batch["image"]).mean()),
        ("discriminator", lambda task, batch, losses: torch.zeros(())),
    ],
)
def test_a_loss_that_does_not_depend_on_its_optimizer_s_parameters_is_refused(name, change, gan, monkeypatch):
    right = Gan.step

    def step(task, batch, stage):
        found = right(task, batch, stage)
        found.parts[name] = change(task, batch, found.parts)
        return found

    monkeypatch.setattr(Gan, "step", step)
    with pytest.raises(UserError, match=f"step: the loss {name} depends on no parameter of the optimizer {name}"):
        train.main(gan())


def test_the_finder_keeps_the_ratio_of_the_optimizers(gan, monkeypatch):
    own = tune.take_settings(
        compose_config("tune", ["experiment=digits", "data.tiny=true", "lr.steps=20", "trainer=cpu"])
    )
    cfg = gan(optimizer={"discriminator": SGD, "generator": ADAM})
    filter_warnings()
    monkeypatch.setattr(finders.memory, "limit", lambda device, gigabytes: None)
    seen, rates = [], []
    right = NamedOptimizers.backward

    def backward(optimizer, *args):
        rates.append([group["lr"] for group in optimizer.param_groups])
        right(optimizer, *args)

    monkeypatch.setattr(NamedOptimizers, "backward", backward)
    finders.find_lr(cfg, own, seen.append)
    assert [discriminator / generator for generator, discriminator in rates] == pytest.approx([10] * len(rates))
    assert [rate for rate, _ in seen] == pytest.approx([discriminator for _, discriminator in rates])


@pytest.mark.parametrize("damage", ["schedules", "names", "state"])
def test_a_checkpoint_of_other_optimizers_is_refused(gan, damage, tmp_path):
    _, task = prepare(Run(gan()))
    optimizers, schedule = task.build_optimizer().state_dict(), {"schedules": {"generator": {}, "discriminator": {}}}
    content = {"optimizer_states": [optimizers], "lr_schedulers": [schedule]}
    checkpoints.check_optimizer(content, task, tmp_path)
    if damage == "schedules":
        del schedule["schedules"]["generator"]
    elif damage == "names":
        optimizers["param_groups"][0]["name"] = "encoder"
    else:
        optimizers["state"][99] = {}
    with pytest.raises(UserError, match="(expected a schedule for each of|its optimizer does not fit)"):
        checkpoints.check_optimizer(content, task, tmp_path)


def test_a_warm_start_takes_the_state_of_the_same_optimizers(gan, tmp_path):
    train.main(gan(f"run={tmp_path}/first"))
    warm = f"warm_start={tmp_path}/first"
    _, task = prepare(Run(gan(warm)))
    assert task.optimizer_state.keys() == set(range(8))
    for other in ({"generator": SGD, "discriminator": SGD}, {"generator": ADAM, "discriminator": MUON}):
        with pytest.raises(UserError, match="the checkpoint is of another optimizer"):
            prepare(Run(gan(warm, optimizer=other)))


def as_torchrun(cfg, rank, num, port):
    """Train as one of the processes that torchrun starts, without the seconds that it takes to import everything."""
    if num > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "TORCHELASTIC_RUN_ID": 1}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    train.main(cfg)


def test_two_processes_train_the_same_weights_as_one(gan, tmp_path):
    """Gradients are averaged over the processes, second-order ones too."""

    def trained(name, *words, processes=1):
        cfg = gan(f"run={tmp_path}/{name}", *words, noise=False)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        started = [FORK.Process(target=as_torchrun, args=(cfg, rank, processes, port)) for rank in range(processes)]
        for process in started:
            process.start()
        for process in started:
            process.join(100)
            assert process.exitcode == 0
        return checkpoints.read(tmp_path / name / "last.ckpt")["state_dict"]

    same = "+callbacks.same={_target_: gan.SameWeights}"
    one = trained("one", "data.batch_size=16")
    two = trained("two", "data.batch_size=8", "trainer=ddp_cpu", same, processes=2)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
