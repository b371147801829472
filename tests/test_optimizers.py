"""Several named optimizers in one task, a GAN: what each learns from, how they are configured, exact resume."""

import csv
import os

import lightning as L
import pytest
import torch
from conftest import PLAIN
from omegaconf import OmegaConf

from lab import allow, checkpoints, run, train

ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01, "betas": [0.5, 0.9]}
SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.5}
CYCLE = {"_target_": "lab.optim.one_cycle", "_partial_": True}
COSINE = {"_target_": "lab.optim.warmup_cosine", "_partial_": True}
BOTH = {"generator": ADAM, "discriminator": SGD}
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
        cfg.net.image_size = cfg.task.image_size = 8
        cfg.optimizer, cfg.scheduler = optimizer, scheduler
        return cfg

    return gan


def test_it_trains(gan, tmp_path):
    cfg = gan(f"run={tmp_path}/run")
    train.main(cfg)
    last = checkpoints.read(tmp_path / "run/last.ckpt")
    print(last["optimizer_states"][0]["param_groups"], last["lr_schedulers"])
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    print(rows[0])
    assert 0
