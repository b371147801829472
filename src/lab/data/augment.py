"""Augmentation of whole batches on their device, each image with its own random numbers."""

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from lab.types import Fraction


class Augment:
    """Random flip, rotation, scale, shift and cutout.

    Torchvision's and kornia's transforms draw from the global generator, which ties a sample's augmentation to all
    that was drawn before it. Here the numbers come in from outside: see `uniform`.

    Args:
        flip: mirror every second image left to right.
        rotate: largest angle, degrees.
        scale: largest relative change of size.
        shift: largest shift, as a fraction of the side.
        cutout: side of an erased square, as a fraction of the side (DeVries & Taylor 2017).
    """

    num_random = 7

    def __init__(
        self,
        flip: bool = False,
        rotate: NonNegativeFloat = 0.0,
        scale: Fraction = 0.0,
        shift: Fraction = 0.0,
        cutout: Fraction = 0.0,
    ) -> None:
        self.flip, self.rotate, self.scale, self.shift, self.cutout = flip, rotate, scale, shift, cutout

    def __call__(self, image: Tensor, random: Tensor) -> Tensor:
        """(B, C, H, W) image, (B, `num_random`) numbers in [0, 1) -> (B, C, H, W) image."""
        image = self._affine(image, random)
        return self._cutout(image, random[:, 5:7]) if self.cutout else image

    def _affine(self, image: Tensor, random: Tensor) -> Tensor:
        mirror = 1 - 2 * (random[:, 0] < 0.5).to(image) if self.flip else torch.ones_like(random[:, 0])
        centred = 2 * random[:, 1:5] - 1  # (B, 4) in [-1, 1)
        angle = torch.deg2rad(self.rotate * centred[:, 0])
        cos, sin = angle.cos() * (1 + self.scale * centred[:, 1]), angle.sin() * (1 + self.scale * centred[:, 1])
        x, y = 2 * self.shift * centred[:, 2], 2 * self.shift * centred[:, 3]  # the image spans 2
        row = torch.stack([mirror * cos, -mirror * sin, x], 1), torch.stack([sin, cos, y], 1)
        grid = F.affine_grid(torch.stack(row, 1).to(image), list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, align_corners=False)

    def _cutout(self, image: Tensor, centre: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y = (torch.arange(height, device=image.device) + 0.5) / height
        x = (torch.arange(width, device=image.device) + 0.5) / width
        keep_y = (y - centre[:, :1]).abs() > self.cutout / 2  # (B, H)
        keep_x = (x - centre[:, 1:]).abs() > self.cutout / 2  # (B, W)
        return image * (keep_y[:, None, :, None] | keep_x[:, None, None, :])


def uniform(seed: int, epoch: int, index: Tensor, num: int) -> Tensor:
    """(B,) sample index -> (B, num) numbers in [0, 1), a pure function of its arguments.

    The order of the samples, the batch they are in, the device and the number of processes change nothing.
    """
    key = _mix(_mix(torch.tensor(seed, device=index.device)) + epoch)
    counter = index[:, None] * num + torch.arange(num, device=index.device)
    return ((_mix(_mix(counter) + key) >> 40) & 0xFFFFFF).float() / 2**24


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 (Steele et al. 2014), on int64 that wraps: every bit of the result depends on every bit of `x`."""
    x = x + -0x61C8864680B583EB
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))
