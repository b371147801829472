"""Augmentation of whole batches on their device, with different random numbers for each image."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from lab.engine.constraints import Fraction
from lab.engine.draws import bits, fraction, mix


class Augment:
    """Random flip, crop, rotation, scale, shift and cutout.

    The transforms of torchvision and kornia draw from the global generator: the augmentation of a sample depends on
    everything drawn before it. Here the numbers are a function of seed, epoch and sample: see `uniform_of_epoch`.

    Args:
        flip: mirror left to right with probability 0.5; "alternating": mirror each image in every second epoch
            (Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.6).
        crop: pixels of reflection padding on each side, before a crop of the original size at a random position.
        rotate: largest angle, degrees.
        scale: largest relative change of size.
        shift: largest shift, as a fraction of the side.
        cutout: side of an erased square, as a fraction of the side (DeVries & Taylor 2017).
    """

    def __init__(
        self,
        flip: bool | Literal["alternating"] = False,
        crop: NonNegativeInt = 0,
        rotate: NonNegativeFloat = 0.0,
        scale: Fraction = 0.0,
        shift: Fraction = 0.0,
        cutout: Fraction = 0.0,
    ) -> None:
        self.flip, self.crop, self.cutout = flip, crop, cutout
        self.rotate, self.scale, self.shift = rotate, scale, shift

    def __call__(self, image: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        """(B, C, H, W) image and (B,) position of each image in its split -> (B, C, H, W) image."""
        random = uniform_of_epoch(seed, epoch, index, 9)
        if self.flip:
            image = _flip(image, self._mirrored(random, index, seed, epoch))
        if self.crop:
            image = _crop(image, self.crop, random[:, 7:9])
        if self.rotate or self.scale or self.shift:
            image = self._affine(image, random[:, 1:5])
        return _cutout(image, self.cutout, random[:, 5:7]) if self.cutout else image

    def _mirrored(self, random: Tensor, index: Tensor, seed: int, epoch: int) -> Tensor:
        if self.flip == "alternating":
            return (uniform_of_epoch(seed, 0, index, 1)[:, 0] < 0.5) ^ (epoch % 2 == 1)
        return random[:, 0] < 0.5

    def _affine(self, image: Tensor, random: Tensor) -> Tensor:
        angle, scale, x, y = (2 * random - 1).unbind(1)  # each (B,) in [-1, 1)
        angle = torch.deg2rad(self.rotate * angle)
        cos, sin = angle.cos() * (1 + self.scale * scale), angle.sin() * (1 + self.scale * scale)
        x, y = 2 * self.shift * x, 2 * self.shift * y  # the image spans 2
        row = torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)
        grid = _affine_grid(torch.stack(row, 1).to(image), *image.shape[-2:])
        return F.grid_sample(image, grid, align_corners=False)


def _affine_grid(theta: Tensor, height: int, width: int) -> Tensor:
    """(B, 2, 3) matrices -> (B, H, W, 2): the numbers of `F.affine_grid`, whose many small products take longer."""
    x, y = (torch.linspace(-1, 1, side, device=theta.device) * (side - 1) / side for side in (width, height))
    columns, rows, offset = theta[:, :, 0, None] * x, theta[:, :, 1, None] * y, theta[:, :, 2, None, None]
    return (columns[:, :, None, :] + rows[..., None] + offset).permute(0, 2, 3, 1)


def _flip(image: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(mirrored[:, None, None, None], image.flip(-1), image)


def _crop(image: Tensor, pad: int, random: Tensor) -> Tensor:
    """Crop each image at a random position: select its rows, then its columns, from the padded batch."""
    batch, channels, height, width = image.shape
    y, x = (random * (2 * pad + 1)).long().unbind(1)
    rows = y[:, None] + torch.arange(height, device=image.device)  # (B, H)
    columns = x[:, None] + torch.arange(width, device=image.device)  # (B, W)
    padded = F.pad(image, (pad, pad, pad, pad), mode="reflect")
    padded = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, padded.shape[3]))
    return padded.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))


def _cutout(image: Tensor, size: float, centre: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    y = (torch.arange(height, device=image.device) + 0.5) / height
    x = (torch.arange(width, device=image.device) + 0.5) / width
    keep_y = (y - centre[:, :1]).abs() > size / 2  # (B, H)
    keep_x = (x - centre[:, 1:]).abs() > size / 2  # (B, W)
    return image * (keep_y[:, None, :, None] | keep_x[:, None, None, :])


def uniform_of_epoch(seed: int, epoch: int, index: Tensor, num: int) -> Tensor:
    """(B,) sample index -> (B, num) numbers in [0, 1), a pure function of the arguments.

    They do not depend on the order of the samples, their batch, the device or the number of processes.
    """
    key = mix(mix(torch.full((), seed, device=index.device)) + epoch)
    return fraction(bits(key, index, num))
