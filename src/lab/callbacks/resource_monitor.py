import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lab.engine.training.trainer import typed


class ResourceMonitor(Callback):
    """Logs the norm of the gradient, and for TensorBoard the speed and the peak memory of each epoch."""

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.on_train_epoch_start(trainer, task)  # a run that resumes within an epoch does not start the epoch

    def on_train_epoch_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.start, self.num_samples = time.monotonic(), 0

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self.num_samples += len(batch["index"])

    def on_before_optimizer_step(self, trainer: Trainer, task: LightningModule, optimizer: Optimizer) -> None:
        every = typed(trainer).log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            task.log("gradient_norm", get_total_norm(gradients))

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not self.num_samples:
            return
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.synchronize()
            memory = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            unit = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss: bytes, KiB
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        speed = self.num_samples * trainer.world_size / (time.monotonic() - self.start)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"samples_per_second": speed, "peak_memory_MiB": memory}, trainer.global_step)
