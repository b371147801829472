"""The searches: trainings of a few steps that keep and show nothing, each in a process of its own."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.tuner import Tuner
from omegaconf import DictConfig

from lab.data.base import Data
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import fail
from lab.engine.training import process
from lab.engine.training.trainer import typed
from lab.runs.open import Run
from lab.tasks.optimizers import by_key
from lab.train import prepare
from lab.verbs.tune import memory

Tell = Callable[[Any], None]


@dataclass
class Trial:
    """A batch size, the samples per second in its fastest step, and the most memory meanwhile, in GB."""

    batch_size: int
    speed: float
    gigabytes: float


def find_lr(cfg: DictConfig, own: DictConfig, tell: Tell) -> None:
    """The range test of Smith (2017, https://arxiv.org/abs/1506.01186): `tell` each batch's learning rate and loss.

    Lightning gives all groups of parameters one rate; here each keeps its ratio to the first, also those of several
    optimizers. The losses are those of the steps: Lightning's are smoothed, from half of the first one on.
    """
    trainer, data, task = _parts(cfg, own, max_steps=own.lr.steps)
    groups = task.build_optimizer().param_groups
    scales = [group["lr"] / groups[0]["lr"] for group in groups]
    told = next(iter(by_key("optimizer", cfg.optimizer).values())).lr / groups[0]["lr"]  # the config's first
    step = task.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(batch, batch_idx)
        groups = trainer.optimizers[0].param_groups
        for group, scale in zip(groups, scales, strict=True):
            group["lr"] = groups[0]["lr"] * scale
        tell((groups[0]["lr"] * told, loss.item()))
        return loss

    task.training_step = training_step
    Tuner(trainer).lr_find(
        task, datamodule=data, min_lr=own.lr.min, max_lr=own.lr.max, num_training=own.lr.steps, update_attr=False
    )


def try_size(cfg: DictConfig, own: DictConfig, tell: Tell) -> None:
    """Train for some steps with the config's batch size, and `tell` what it took.

    Lightning's finder tries all sizes in one process, where what one leaves behind makes the next ones fail.
    """
    steps = own.batch_size.steps
    plain = {"accumulate_grad_batches": 1, "overfit_batches": 0, "limit_train_batches": 1.0}
    trainer, data, task = _parts(cfg, own, max_steps=steps, **plain)
    if data.tokens_per_batch is not None:
        fail(["data.tokens_per_batch: it sets the batch size, so there is no data.batch_size to tune"])
    train = data.splits["train"]
    if train.length is not None:  # the longest samples take the most memory
        longest = train.length.view(len(train), -1).amax(1).argsort(descending=True)
        data.splits["train"] = train.subset(longest[: data.batch_size * (steps + 1)].tolist())
    if cfg.data.batch_size > (num_samples := len(data.splits["train"])):
        data.batch_size = num_samples
    clock = Clock()
    typed(trainer).callbacks.append(clock)
    trainer.fit(task, data)
    fastest = min(end - begin for begin, end in pairwise(clock.done))  # others may use the machine too
    tell(Trial(data.batch_size, data.batch_size / fastest, memory.peak(trainer.strategy.root_device)))


class Clock(Callback):
    """When each step was done. The first one also allocates, and is where measuring begins."""

    def __init__(self) -> None:
        self.done: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.done.append(time.perf_counter())


def _parts(cfg: DictConfig, own: DictConfig, **arguments: Any) -> tuple[Trainer, Data, Any]:
    process.set_up_process(cfg)
    never: dict[str, Any] = {
        "max_epochs": -1,
        "max_time": None,
        "check_val_every_n_epoch": 10**9,
        "num_sanity_val_steps": 0,
    }
    nothing = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    place = {"default_root_dir": tempfile.gettempdir()}
    trainer = instantiate(cfg.trainer, **(never | nothing | place | arguments))
    if trainer.world_size > 1:
        fail(["trainer: tune uses one process; choose trainer=cpu or trainer=gpu."])
    data, task = prepare(Run(cfg))
    memory.limit(trainer.strategy.root_device, own.memory_gb)
    return trainer, data, task
