"""Denoising diffusion (Ho et al. 2020, https://arxiv.org/abs/2006.11239), conditioned on the class."""

from typing import Any

import torch
from matplotlib.figure import Figure
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.features.base import Feature
from lab.features.image import Image
from lab.figures.images import images
from lab.tasks.base import Batch, Stage, Step, Task


class Denoiser(nn.Module):
    """Predicts the noise in an image."""

    def __init__(self, num_channels: int, image_size: int, num_classes: int, width: PositiveInt = 64) -> None:
        super().__init__()
        size = num_channels * image_size**2
        self.embed = nn.Embedding(num_classes, size)
        self.layers = nn.Sequential(nn.Linear(2 * size + 1, width), nn.SiLU(), nn.Linear(width, size))

    def forward(self, image: Tensor, level: Tensor, label: Tensor) -> Tensor:
        """(B, C, H, W) noisy image, (B,) share of it that is no noise, (B,) label -> (B, C, H, W) noise."""
        x = torch.cat([image.flatten(1), self.embed(label), level[:, None]], 1)
        return self.layers(x).view_as(image)


class Diffusion(Task):
    """The mean squared error of the predicted noise. An answer is a picture of the class that is asked for."""

    def __init__(
        self, num_channels: int, image_size: int, image_mean: list[float], image_std: list[float],
        num_steps: PositiveInt = 10, every: PositiveInt = 1, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.shape, self.every, self.num_steps = (num_channels, image_size, image_size), every, num_steps
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (image_mean, image_std))
        self.level = (1 - torch.linspace(1e-4, 0.5, num_steps)).cumprod(0)  # (num_steps,) share of the image

    @property
    def input_entries(self) -> tuple[str, ...]:
        return ("label", "index")

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"picture": Image(*self.shape[:2], entry="picture")}

    def step(self, batch: Batch, stage: Stage) -> Step:
        image = batch["image"]
        noise = self.normal(batch, stage, *image.shape[1:], name="noise")
        time = (self.num_steps * self.uniform(batch, stage, name="time")).long()
        level = self.level.to(image.device)[time]
        share = level[:, None, None, None]
        found = self.net(share.sqrt() * image + (1 - share).sqrt() * noise, level, batch["label"])
        error = (found - noise).square().flatten(1).mean(1)
        return Step(error.mean(), outputs={"error": error})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """(B, C, H, W) pictures in [0, 1], by DDIM (Song et al. 2021) from the last step to the first."""
        x = self.normal(batch, "predict", *self.shape)
        for level, after in zip(self.level.flip(0).tolist(), [*self.level.flip(0)[1:].tolist(), 1.0], strict=True):
            noise = self.net(x, torch.full_like(x[:, 0, 0, 0], level), batch["label"])
            clean = (x - (1 - level) ** 0.5 * noise) / level**0.5
            x = after**0.5 * clean + (1 - after) ** 0.5 * noise
        return {"picture": (x * self.std.to(x.device) + self.mean.to(x.device)).clamp(0, 1)}

    def epoch_figures(self, epoch: int) -> dict[str, Figure]:
        if (epoch + 1) % self.every:
            return {}
        label = torch.arange(8, device=self.device) % 10
        picture = self.predict_step({"label": label, "index": torch.arange(8, device=self.device)}, 0)["picture"]
        return {"samples": images(picture, [str(i) for i in label.tolist()], f"samples after epoch {epoch}")}
