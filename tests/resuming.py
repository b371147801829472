"""Runs that are stopped at a batch and resumed, and the result of a training."""

import os
import signal

import lightning as L
import pytest
from conftest import PLAIN
from tables import read_rows

from lab import train
from lab.build import build_trainer
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.runs import checkpoints

NUM_BATCHES = 4
QUICK = (
    *PLAIN, "net=mlp", "net.dropout=0.3", "net.batch_norm=true", "data.batch_size=32", "trainer.max_epochs=3",
    "trainer=cpu", "trainer.enable_progress_bar=false", "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=1",
)  # fmt: skip


def lab_train(*words):
    return train.main(compose_config("train", add_run_overrides([*QUICK, *words])))


def resume(folder, *words):
    return train.main(compose_config("train", add_run_overrides([f"run={folder}", *words])))


class StopAt(L.Callback):
    """A signal arrives at a batch of the run."""

    def __init__(self, batch, number):
        self.batch, self.number = batch, number

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            if self.number == signal.SIGKILL:
                raise RuntimeError("as good as killed: nothing is saved after this")
            os.kill(os.getpid(), self.number)


def with_callback(callback):
    """Patch for `lab.train.build_trainer`: the trainer has one more callback."""

    def build(*args):
        trainer = build_trainer(*args)
        trainer.callbacks.append(callback)
        return trainer

    return build


def stopped(batch, number, *words, start=lab_train):
    """Train until a signal arrives at a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.train.build_trainer", with_callback(StopAt(batch, number)))
        if number == signal.SIGKILL:
            with pytest.raises(RuntimeError, match="as good as killed"):
                start(*words)
        else:
            with pytest.raises(SystemExit) as stop:
                start(*words)
            assert stop.value.code == 128 + number


def outcome(folder):
    """The result of a training: weights, optimizer and averages, and the table of metrics."""
    last = checkpoints.read(folder / "last.ckpt")
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    return {name: last.get(name) for name in names}, read_rows(folder / "metrics.csv")


def saved(folder):
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
