"""`check`: everything that can be known to be wrong before any data is read."""

import pytest
import torch
import yaml
from conftest import options
from omegaconf import OmegaConf
from refusals import one_line

from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs.check import check
from lab.testing.base import compose as composed

WRONG = {
    "data.batch_size=abc": "data.batch_size=abc: should be a valid integer",
    "data.batch_size=-1": "data.batch_size=-1: should be greater than 0",
    "data.batch_size=0": "data.batch_size=0: should be greater than 0",
    "data.batch_size='8'": "data.batch_size=8: should be a valid integer",
    "data.batch_size=null": "data.batch_size=None: should be a valid integer",
    "+data.num_workers=-1": "data.num_workers=-1: should be greater than or equal to 0",
    "data.val_fraction=1.5": "data.val_fraction=1.5: should be less than or equal to 1",
    "data.tiny=maybe": "data.tiny=maybe: should be a valid boolean",
    "net.hidden=-3": "net.hidden=-3: should be greater than 0",
    "net.dropout=2": "net.dropout=2: should be less than or equal to 1",
    "net.pool=[1]": "net.pool=[1]: should be a valid boolean",
    "+net.widht=3": "net: unknown argument widht",
    "+optimizer.momentun=0.9": "optimizer: unknown argument momentun",
    "+trainer.max_epoch=3": "trainer: unknown argument max_epoch. Did you mean max_epochs?",
    "+task.smoothing=0.1": "task: unknown argument smoothing. Did you mean label_smoothing?",
    "+sede=3": "unknown key sede. Did you mean seed?",
    "optimizer.lr=abc": "optimizer.lr=abc: should be a valid number",
    "optimizer.lr=-1": "optimizer: Invalid learning rate: -1",
    "optimizer.betas=[0.9]": "optimizer.betas=[0.9]",
    "scheduler.pct_start=7": "scheduler: Expected float between 0 and 1",
    "task.label_smoothing=2": "task.label_smoothing=2: should be less than or equal to 1",
    "trainer.max_epochs=abc": "trainer.max_epochs=abc: should be a valid integer",
    "trainer.max_epochs=-5": "trainer: `max_epochs` must be a non-negative integer or -1",
    "trainer.devices=-7": "trainer: ",
    "trainer.precision=17": "trainer.precision=17",
    "trainer.accelerator=abacus": "trainer: ",
    "trainer.strategy=dpp": "trainer: ",
    "net._target_=lab.nets.cnn.CNNN": "net._target_=",
    "log_dir=/proc/nope": "log_dir=/proc/nope: /proc is not a writable folder",
    "seed=abc": "seed=abc: should be a valid integer",
    "seed=-1": "seed=-1: should be greater than or equal to 0",
    "early_stopping=0": "early_stopping=0: should be greater than 0",
    "ema=1.5": "ema=1.5: should be less than or equal to 1",
    "compile=perhaps": "compile=perhaps: should be a valid boolean",
    "monitor.mode=up": "monitor.mode=up: should be 'min' or 'max'",
    "seed=4294967296": "seed=4294967296: should be less than 4294967296",
    "data.augment=7": "data.augment=7: should be null, or an object with a _target_",
    "callbacks=3": "callbacks=3: expected a mapping of names",
    "callbacks=null": "callbacks=None: expected a mapping of names",
    "+callbacks.x=3": "callbacks.x: expected an object with a _target_",
    "+callbacks.x={_target_: lightning.pytorch.callbacks.Timer, duration: abc}": "callbacks: ",
    "trainer.limit_val_batches=0": "trainer.limit_val_batches=0: validation selects the best weights",
    "+trainer.fast_dev_run=true": "trainer.fast_dev_run: it writes no checkpoint",
    "+trainer.enable_checkpointing=false": "trainer.enable_checkpointing=false: a run needs its checkpoints",
    "logger=wandb": "logger: ",
    "logger=mlflow": "logger: ",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_value(compose, override, tmp_path):
    key, _, value = override.lstrip("+").partition("=")
    if key == "logger":
        cfg = compose("experiment=digits", override)
    else:  # composed once
        filter_warnings()
        cfg = composed("experiment=digits")
        OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
    with pytest.raises(UserError) as caught:
        check(cfg)
    assert one_line(caught.value)
    assert str(caught.value).startswith(f"error: {WRONG[override]}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trainer", ["gpu", "ddp"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(compose, trainer):
    with pytest.raises(UserError, match="error: trainer: No supported gpu backend found!"):
        check(compose("experiment=digits", f"trainer={trainer}"))


@pytest.mark.parametrize("experiment", options("experiment"))
def test_shipped_experiments_are_sound(compose, experiment):
    check(compose(f"experiment={experiment}"))


def test_a_list_for_a_tuple_and_an_int_for_a_float_are_fine(compose):
    check(compose("experiment=digits", "net=mlp", "net.widths=[8, 8, 8]", "optimizer.lr=1", "trainer.max_epochs=null"))
