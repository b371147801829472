from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from pydantic import PositiveInt
from torch import Tensor
from torchmetrics import Metric

from lab.engine.constraints import Fraction


class Lookahead(Callback):
    """Replaces the weights every few steps by a slow average of them (Zhang et al. 2019).

    The average's decay grows with the cube of the run's progress up to `decay`, and the run ends on the average
    (Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.5).

    Args:
        every: optimizer steps between two replacements.
        decay: of the average between two replacements, at the end of the run.
    """

    def __init__(self, every: PositiveInt = 5, decay: Fraction = 0.95**5) -> None:
        self.every, self.decay = every, decay
        self.slow: dict[str, Tensor] = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.step = trainer.global_step
        own = _floats(task)
        self.slow = {name: self.slow.get(name, value).to(value.device, copy=True) for name, value in own.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        step, last = trainer.global_step, trainer.estimated_stepping_batches
        if step == self.step:
            return  # within an accumulated optimizer step
        self.step = step
        decay = self.decay * (step / last) ** 3
        if step % self.every and step != last:
            return
        for name, value in _floats(task).items():
            if step % self.every == 0:
                value.copy_(self.slow[name].lerp_(value, 1 - decay))
            else:
                value.copy_(self.slow[name])

    def state_dict(self) -> dict[str, Tensor]:
        return self.slow

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self.slow = state_dict


def _floats(task: LightningModule) -> dict[str, Tensor]:
    """The floating-point parameters and buffers of a task, without those of metrics."""
    metrics = tuple(f"{name}." for name, module in task.named_modules() if isinstance(module, Metric))
    every = task.state_dict()
    return {name: x for name, x in every.items() if x.is_floating_point() and not name.startswith(metrics)}
