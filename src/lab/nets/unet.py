"""A small U-Net (Ronneberger et al. 2015) that knows a time and a class, for generation."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

NUM_GROUPS = 8  # of group normalisation
NUM_FREQUENCIES = 32  # of the embedding of the time


class UNet(nn.Module):
    """A U-Net over patches of 2×2 pixels, with two resolutions. Time and class scale and shift each block's features.

    It has no attention: for images of 28 pixels, attention takes an eighth of the time.

    Args:
        width: channels at the higher resolution; the lower one has twice as many.
        embedding_size: length of the vector that describes the time and the class.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        width: Annotated[int, Field(gt=0, multiple_of=NUM_GROUPS)] = 48,
        embedding_size: PositiveInt = 128,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"UNet needs an image_size that is a multiple of 4, got {image_size}")
        size, wide = embedding_size, 2 * width
        self.frequency = nn.Buffer(1000 * 10_000 ** -(torch.arange(NUM_FREQUENCIES) / NUM_FREQUENCIES))
        self.time = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size))
        self.label_embedding = nn.Embedding(num_classes + 1, size)  # the last one: no class is given
        self.stem = nn.Conv2d(4 * num_channels, width, 3, padding=1)
        self.down = nn.ModuleList([Block(width, width, size), Block(width, width, size)])
        self.shrink = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([Block(wide, wide, size) for _ in range(3)])
        self.enlarge = nn.Conv2d(wide, width, 1)
        self.up = nn.ModuleList([Block(wide, width, size), Block(wide, width, size)])
        self.head = nn.Sequential(
            nn.GroupNorm(NUM_GROUPS, width), nn.SiLU(), zero(nn.Conv2d(width, 4 * num_channels, 3, padding=1))
        )

    def forward(self, image: Tensor, time: Tensor, label: Tensor, is_given: Tensor) -> Tensor:
        """(B, C, H, W) noisy image, (B,) time in [0, 1], (B,) label, (B,) bool -> (B, C, H, W) velocity.

        Where `is_given` is false, the label is not used.
        """
        angle = time[:, None] * self.frequency
        no_label = torch.full_like(label, self.label_embedding.num_embeddings - 1)
        embedding = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        embedding = F.silu(embedding + self.label_embedding(torch.where(is_given, label, no_label)))
        x = self.stem(F.pixel_unshuffle(image, 2))
        skipped = []
        for block in self.down:
            x = block(x, embedding)
            skipped.append(x)
        x = self.shrink(x)
        for block in self.middle:
            x = block(x, embedding)
        x = F.interpolate(self.enlarge(x), scale_factor=2.0, mode="nearest")
        for block in self.up:
            x = block(torch.cat([x, skipped.pop()], 1), embedding)
        return F.pixel_shuffle(self.head(x), 2)


class Block(nn.Module):
    """A residual block of two convolutions; the embedding scales and shifts the features between them."""

    def __init__(self, num_in: int, num_out: int, embedding_size: int) -> None:
        super().__init__()
        self.norm, self.convolution = nn.GroupNorm(NUM_GROUPS, num_in), nn.Conv2d(num_in, num_out, 3, padding=1)
        self.scale_and_shift = nn.Linear(embedding_size, 2 * num_out)
        self.last_norm = nn.GroupNorm(NUM_GROUPS, num_out)
        self.last_convolution = zero(nn.Conv2d(num_out, num_out, 3, padding=1))
        self.skip = nn.Conv2d(num_in, num_out, 1) if num_in != num_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, num_in, H, W), (B, embedding_size) -> (B, num_out, H, W)."""
        scale, shift = self.scale_and_shift(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.last_norm(self.convolution(F.silu(self.norm(x))))
        return self.skip(x) + self.last_convolution(F.silu(hidden * (1 + scale) + shift))


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of a layer to zero: its block starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
