"""Normalisation of images: the statistics of a split, and their use on a device."""

from functools import cache

import torch
from torch import Tensor


def channel_statistics(image: Tensor) -> tuple[list[float], list[float]]:
    """(N, C, H, W) uint8 images -> the mean and standard deviation of each channel, in [0, 1]."""
    level = torch.linspace(0, 1, 256, dtype=torch.float64)
    share = torch.stack([image[:, c].flatten().bincount(minlength=256) for c in range(image.shape[1])]).double()
    share = share / share.sum(1, keepdim=True)  # (C, 256), the share of the pixels at each level
    mean = share @ level
    std = (share @ level**2 - mean**2).sqrt().clamp(min=1e-3)  # images of one colour must not divide by zero
    return mean.tolist(), std.tolist()


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, C, H, W) floats in 0 to 255 -> (image - mean) / std; mean and std of each channel are in [0, 1]."""
    levels = pixel_levels if torch.compiler.is_compiling() else kept_pixel_levels  # a traced tensor cannot be kept
    centre, scale = (levels(share, image.dtype, image.device) for share in (mean, std))
    return (image - centre).div_(scale)


def pixel_levels(share: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number in [0, 1] for each channel -> (C, 1, 1) levels in 0 to 255."""
    return 255 * torch.tensor(share, dtype=dtype, device=device)[:, None, None]


@cache
def kept_pixel_levels(share: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same, computed once: a copy to a GPU waits for it.

    The first call may come from evaluation, but training needs tensors with gradients: no inference mode.
    """
    with torch.inference_mode(False):
        return pixel_levels(share, dtype, device)
