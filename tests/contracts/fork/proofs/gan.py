"""A Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028)."""

from collections.abc import Iterable
from typing import Any

import torch
from matplotlib.figure import Figure
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from lab.features.base import Feature
from lab.features.image import Image
from lab.figures.images import images
from lab.tasks.base import Batch, Stage, Step, Task


class Generator(nn.Module):
    def __init__(self, num_channels: int, image_size: int, num_classes: int, noise: PositiveInt = 8) -> None:
        super().__init__()
        self.shape = (num_channels, image_size, image_size)
        self.embed = nn.Embedding(num_classes, noise)
        self.layers = nn.Sequential(nn.Linear(2 * noise, 64), nn.ReLU(), nn.Linear(64, num_channels * image_size**2))

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        """(B, noise), (B,) label -> (B, C, H, W) image in [0, 1]."""
        x = self.layers(torch.cat([noise, self.embed(label)], 1))
        return x.view(-1, *self.shape).sigmoid()


class Critic(nn.Module):
    def __init__(self, num_channels: int, image_size: int) -> None:
        super().__init__()
        size = num_channels * image_size**2
        # a last bias would change no difference of scores
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, 1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B,) score."""
        return self.layers(image)[:, 0]


class Pair(nn.Module):
    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic


class WGAN(Task):
    """Two losses, each of one optimizer: `generator` and `critic`; the critic's has a gradient penalty in training.

    The loss that is reported is the distance of generated from real images, as the critic estimates it.
    """

    def __init__(
        self, num_channels: int, image_size: int, image_mean: list[float], image_std: list[float],
        noise: PositiveInt = 8, penalty: NonNegativeFloat = 10.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.num_channels, self.image_size, self.noise, self.penalty = num_channels, image_size, noise, penalty
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (image_mean, image_std))

    @property
    def input_entries(self) -> tuple[str, ...]:
        return ("label", "index")

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"picture": Image(self.num_channels, self.image_size, entry="picture")}

    def parameters_of(self) -> dict[str, Iterable[tuple[str, nn.Parameter]]]:
        return {name: getattr(self.net, name).named_parameters() for name in ("generator", "critic")}

    def step(self, batch: Batch, stage: Stage) -> Step:
        real = batch["image"] * self.std.to(self.device) + self.mean.to(self.device)
        fake = self.net.generator(self.normal(batch, stage, self.noise), batch["label"])
        critic = self.net.critic(fake.detach()).mean() - self.net.critic(real).mean()
        parts = {"generator": -self.net.critic(fake).mean(), "critic": critic}
        if stage == "train":
            share = self.uniform(batch, stage, 1, 1, 1, name="between")
            between = (share * real + (1 - share) * fake.detach()).requires_grad_()
            (slope,) = torch.autograd.grad(self.net.critic(between).sum(), between, create_graph=True)
            parts["critic"] = critic + self.penalty * (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return Step(-critic.detach(), parts)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """(B, C, H, W) pictures in [0, 1]."""
        return {"picture": self.net.generator(self.normal(batch, "predict", self.noise), batch["label"])}

    def epoch_figures(self, epoch: int) -> dict[str, Figure]:
        index = torch.arange(8, device=self.device)
        picture = self.predict_step({"label": index, "index": index}, 0)["picture"]
        return {"samples": images(picture, list(map(str, index.tolist())), f"samples after epoch {epoch}")}
