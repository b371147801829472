"""A task with two optimizers, as a fork would write one: a GAN with a gradient penalty. No test is here."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lab.tasks.base import Step, Task


class Generator(nn.Module):
    """(B, C, H, W) of anything -> as many numbers."""

    def __init__(self, image_size: int, width: int = 8) -> None:
        super().__init__()
        num = image_size**2
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(num, width), nn.Tanh(), nn.Linear(width, num))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Gan(Task):
    """A generator and a discriminator.

    Args:
        noise: else the generator starts from the negative of the image, which needs no random numbers.
    """

    def __init__(self, net: nn.Module, image_size: int, noise: bool = True, **kwargs: Any) -> None:
        metrics = {stage: MetricCollection({}) for stage in ("train", "val", "test")}
        super().__init__(net, metrics=metrics, **kwargs)
        self.noise = noise
        self.discriminator = nn.Sequential(nn.Linear(image_size**2, 8), nn.Tanh(), nn.Linear(8, 1))

    def parameters_of(self):
        return {"generator": self.net.named_parameters(), "discriminator": self.discriminator.named_parameters()}

    def step(self, batch, stage):
        real = batch["image"].flatten(1)
        image = batch["image"]
        start = self.normal(batch, stage, *image.shape[1:]) if self.noise else -image
        fake = self.net(start)
        fooled, seen, known = (self.discriminator(x) for x in (fake, fake.detach(), real))
        parts = {
            "generator": F.softplus(-fooled).mean(),
            "discriminator": F.softplus(seen).mean() + F.softplus(-known).mean() + self.penalty(real, fake.detach()),
        }
        return Step(sum(parts.values()), parts)

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return real.new_zeros(())
        between = ((real + fake) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        return ((slope.norm(dim=1) - 1) ** 2).mean()


class SameWeights(L.Callback):
    """Fails where the processes end with other weights."""

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        own = torch.cat([p.detach().flatten() for p in task.parameters()])
        every = [torch.empty_like(own) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(every, own)
        assert all(own.equal(other) for other in every)
