"""The searches, with Lightning's Tuner and a trainer that keeps and shows nothing."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.tuner import Tuner
from omegaconf import DictConfig

from lab import run, train
from lab.allow import instantiate
from lab.config import fail
from lab.data.base import Data
from lab.errors import RunError
from lab.run import NoProfiler
from lab.tuning import memory

OUT = "DefaultCPUAllocator: can't allocate memory"  # all that the Tuner understands where there is no GPU


@dataclass
class Trial:
    """A batch size, when each of its steps was done, in seconds, and the most memory meanwhile, in GB."""

    batch_size: int
    done: list[float] = field(default_factory=list)
    gigabytes: float = 0.0
    fits: bool = False

    @property
    def speed(self) -> float:
        """Samples per second, without the first step, which allocates."""
        return self.batch_size * (len(self.done) - 1) / (self.done[-1] - self.done[0])


def find_lr(cfg: DictConfig, own: DictConfig, tell: Callable[[tuple[float, float]], object]) -> None:
    """The range test of Smith (2017, https://arxiv.org/abs/1506.01186): `tell` each step's learning rate and loss.

    Lightning gives all groups of an optimizer one rate; here each keeps its ratio to the first. The losses are those
    of the steps: Lightning's are smoothed from half of the first one on.
    """
    trainer, data, task = _parts(cfg, own, max_steps=own.lr.steps)
    groups = task.optimizer((name, p) for name, p in task.named_parameters() if p.requires_grad).param_groups
    scales = [group["lr"] / groups[0]["lr"] for group in groups]
    step = task.training_step

    def training_step(batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(batch, batch_idx)
        groups = trainer.optimizers[0].param_groups
        for group, scale in zip(groups, scales, strict=True):
            group["lr"] = groups[0]["lr"] * scale
        tell((groups[0]["lr"], loss.item()))
        return loss

    task.training_step = training_step
    try:
        Tuner(trainer).lr_find(
            task, datamodule=data, min_lr=own.lr.min, max_lr=own.lr.max, num_training=own.lr.steps, update_attr=False
        )
    except (MemoryError, RuntimeError) as error:
        if memory.is_out(error):
            raise too_large(cfg.data.batch_size) from error
        raise


def find_batch_size(cfg: DictConfig, own: DictConfig, tell: Callable[[Trial], object]) -> None:
    """Double the batch size until it does not fit, then halve the interval; `tell` each trial when it is over."""
    steps = own.batch_size.steps
    alone = {"accumulate_grad_batches": 1, "overfit_batches": 0, "limit_train_batches": 1.0}
    trainer, data, task = _parts(cfg, own, max_steps=10**6, **alone)  # a schedule may end with its steps
    trainer.profiler = Meter(data, trainer.strategy.root_device, steps, tell)
    most = min(own.batch_size.max, len(data.splits["train"]))
    Tuner(trainer).scale_batch_size(
        task,
        datamodule=data,
        mode="binsearch",
        steps_per_trial=steps,
        init_val=min(own.batch_size.min, most),
        margin=0.0,
        max_val=most + 1,  # which it does not try
    )


def too_large(batch_size: int) -> RunError:
    return RunError(f"error: data.batch_size={batch_size}: out of memory. find=batch_size finds the largest that fits.")


def _parts(cfg: DictConfig, own: DictConfig, **arguments: Any) -> tuple[Trainer, Data, Any]:
    run.settle(cfg)
    never = {"max_epochs": -1, "max_time": None, "check_val_every_n_epoch": 10**9, "num_sanity_val_steps": 0}
    nothing = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    place = {"default_root_dir": tempfile.mkdtemp(), "profiler": NoProfiler()}
    trainer = instantiate(cfg.trainer, **(never | nothing | place | arguments))
    if trainer.world_size > 1:
        fail(["trainer: tune uses one process; choose trainer=cpu or trainer=gpu."])
    data, task = train.parts(cfg, None)
    memory.limit(trainer.strategy.root_device, own.memory_gb)
    return trainer, data, task


class Meter(Profiler):
    """Measures each batch size. A profiler, for the Tuner takes all callbacks away.

    Args:
        steps: of each batch size.
        tell: called with each trial when it is over.
    """

    def __init__(self, data: Data, device: torch.device, steps: int, tell: Callable[[Trial], object]) -> None:
        super().__init__()
        self.data, self.device, self.steps, self.tell = data, device, steps, tell
        self.trial = Trial(0)

    @contextmanager
    def profile(self, action_name: str) -> Iterator[None]:
        if action_name == "run_training_epoch" and self.data.batch_size != self.trial.batch_size:
            self.trial = Trial(self.data.batch_size)
            memory.reset_peak(self.device)
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if action_name == "run_training_epoch" and memory.is_out(error):
                self.tell(self.trial)
                raise RuntimeError(OUT) from error
            raise
        if action_name == "run_training_batch":
            self._step_is_done()

    def _step_is_done(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.trial.done.append(time.perf_counter())
        if len(self.trial.done) == self.steps:
            self.trial.gigabytes, self.trial.fits = memory.peak(self.device), True
            self.tell(self.trial)

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...
