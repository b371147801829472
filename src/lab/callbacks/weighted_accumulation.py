from typing import Any

import torch
from lightning import Callback, Trainer
from torch.optim import Optimizer


class WeightedAccumulation(Callback):
    """Makes a gradient that is accumulated over several batches the mean over all their samples.

    Lightning sums the gradients of the batches' mean losses and divides by `accumulate_grad_batches`. This is the mean
    over the samples only if a group has that many batches, all of one size. Here each loss is weighted by the batch's
    size relative to the first batch of the group, and the gradient is rescaled before it is clipped. The factors of
    groups that Lightning averages correctly are exactly 1.
    """

    def on_train_batch_start(self, trainer: Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        size = torch.as_tensor(task.size(batch), dtype=torch.float64 if task.device.type != "mps" else torch.float32)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.unit, self.total = mean(trainer, size), torch.zeros_like(size)
        self.total += size
        task.weight = (size / self.unit).float()

    def on_before_optimizer_step(self, trainer: Trainer, task: Any, optimizer: Optimizer) -> None:
        factor = (trainer.accumulate_grad_batches * self.unit / mean(trainer, self.total)).float()
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if p.grad is not None:
                p.grad.mul_(factor.to(p.grad.device))


def mean(trainer: Trainer, value: torch.Tensor) -> torch.Tensor:
    """Return the mean over all ranks, as gradients are averaged."""
    if trainer.world_size == 1:
        return value
    total = value.to(trainer.strategy.root_device, copy=True)
    torch.distributed.all_reduce(total)
    return total / trainer.world_size
