"""The searches of `lab tune`: short trainings that write no files, each in a separate process."""

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

Report = Callable[[Any], None]


@dataclass
class Measurement:
    """The speed and the memory of a batch size."""

    batch_size: int
    speed: float  # samples per second, in the fastest step
    gigabytes: float  # peak memory


def find_lr(cfg: DictConfig, settings: DictConfig, report: Report) -> None:
    """The range test of Smith (2017, https://arxiv.org/abs/1506.01186): report each batch's learning rate and loss.

    Lightning's finder gives all parameter groups the same rate. Here each group keeps its ratio to the first group,
    also across several optimizers. The losses are not smoothed, unlike Lightning's.

    Args:
        cfg: the config of a training.
        settings: the config of `lab tune`.
        report: called with (learning rate, loss).
    """
    trainer, data, task = _prepare(cfg, settings, max_steps=settings.lr.steps)
    groups = task.build_optimizer().param_groups
    scales = [group["lr"] / groups[0]["lr"] for group in groups]
    ratio = next(iter(by_key("optimizer", cfg.optimizer).values())).lr / groups[0]["lr"]  # of the config's lr
    step = task.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(batch, batch_idx)
        groups = trainer.optimizers[0].param_groups
        for group, scale in zip(groups, scales, strict=True):
            group["lr"] = groups[0]["lr"] * scale
        report((groups[0]["lr"] * ratio, loss.item()))
        return loss

    task.training_step = training_step
    Tuner(trainer).lr_find(
        task,
        datamodule=data,
        min_lr=settings.lr.min,
        max_lr=settings.lr.max,
        num_training=settings.lr.steps,
        update_attr=False,
    )


def try_size(cfg: DictConfig, settings: DictConfig, report: Report) -> None:
    """Train for some steps with the batch size of the config, and report a `Measurement`.

    Lightning's finder tries all sizes in one process, in which memory that one size leaves behind makes the next fail.
    """
    steps = settings.batch_size.steps
    plain = {"accumulate_grad_batches": 1, "overfit_batches": 0, "limit_train_batches": 1.0}
    trainer, data, task = _prepare(cfg, settings, max_steps=steps, **plain)
    if data.tokens_per_batch is not None:
        fail(["data.tokens_per_batch: it sets the batch size, so there is no data.batch_size to tune"])
    train = data.splits["train"]
    if train.length is not None:  # measure with the longest samples, which take the most memory
        longest = train.length.view(len(train), -1).amax(1).argsort(descending=True)
        data.splits["train"] = train.subset(longest[: data.batch_size * (steps + 1)].tolist())
    if cfg.data.batch_size > (num_samples := len(data.splits["train"])):
        data.batch_size = num_samples
    clock = StepTimer()
    typed(trainer).callbacks.append(clock)
    trainer.fit(task, data)
    fastest = min(end - begin for begin, end in pairwise(clock.done))  # other processes may slow down some steps
    report(Measurement(data.batch_size, data.batch_size / fastest, memory.peak(trainer.strategy.root_device)))


class StepTimer(Callback):
    """Records when each step ends. The time of the first step, which also allocates memory, is not used."""

    def __init__(self) -> None:
        self.done: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.done.append(time.perf_counter())


def _prepare(cfg: DictConfig, settings: DictConfig, **arguments: Any) -> tuple[Trainer, Data, Any]:
    """The trainer, the data and the task of a short training. The memory of this process is limited.

    Args:
        cfg: the config of a training.
        settings: the config of `lab tune`.
        **arguments: arguments of the trainer, in place of those of the config.
    """
    process.set_up_process(cfg)
    limits: dict[str, Any] = {"max_epochs": -1, "max_time": None}
    no_validation = {"check_val_every_n_epoch": 10**9, "num_sanity_val_steps": 0}
    no_files = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    folder = {"default_root_dir": tempfile.gettempdir()}
    trainer = instantiate(cfg.trainer, **(limits | no_validation | no_files | folder | arguments))
    if trainer.world_size > 1:
        fail(["trainer: tune uses one process; choose trainer=cpu or trainer=gpu."])
    data, task = prepare(Run(cfg))
    memory.limit(trainer.strategy.root_device, settings.memory_gb)
    return trainer, data, task
