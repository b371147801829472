"""Every optimizer learns, every schedule lasts as long as its run, and a loss weighs samples."""

import json

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from conftest import PLAIN, options
from steps import step_losses

from lab import runs
from lab.build import build_task, build_trainer, read_data


def test_the_loss_of_an_epoch_weighs_samples_not_batches(compose, trained):
    folder = trained(*PLAIN, "net=mlp", "trainer.max_epochs=1", "data.batch_size=16")
    _, data, task = runs.load(folder)
    data.setup("test")
    batches = [data.on_after_batch_transfer(batch) for batch in data.test_dataloader()]
    assert len({len(batch["label"]) for batch in batches}) > 1, "all batches have one size: nothing is shown"
    with torch.no_grad():
        losses = [F.cross_entropy(task(batch), batch["label"], reduction="none") for batch in batches]
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["test/loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_learns_a_batch_by_heart(compose, optimizer, tmp_path):
    cfg = compose(*PLAIN, "net=mlp", f"optimizer={optimizer}", "trainer.overfit_batches=1", "trainer.max_epochs=60",
                  "trainer.check_val_every_n_epoch=60")  # fmt: skip
    cfg.optimizer.lr = {"gd": 0.1, "sgd": 0.02, "bias_sgd": 0.02}.get(optimizer, 0.003)
    losses = step_losses(cfg, 60, tmp_path / "x")
    assert losses[0] > 2
    assert losses[-1] < 0.1


@pytest.mark.parametrize("scheduler", options("scheduler"))
def test_schedules_last_as_long_as_the_run(compose, scheduler, tmp_path):
    cfg = compose(*PLAIN, "net=mlp", "net.widths=[8]", f"scheduler={scheduler}", "trainer.max_epochs=12",
                  "trainer.check_val_every_n_epoch=12")  # fmt: skip
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
