"""Augmentation of pictures with boxes: whole batches on their device, different random numbers for each picture."""

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from lab.data.augment import uniform_of_epoch
from lab.data.batches import Batch
from lab.engine.constraints import Fraction
from lab.features.read_image import GREY


class BoxAugment:
    """Random mirror image, scale, shift and colours. The boxes move with the pixels.

    The numbers of a picture are a function of seed, epoch and index. Pixels from outside of the picture are grey.

    Args:
        flip: mirror left to right with probability 0.5.
        scale: the size is multiplied by 1 / (1 + scale) to 1 + scale, uniform in the logarithm.
        shift: largest shift, as a fraction of the side.
        colour: largest relative change of the brightness, the contrast and each channel.
        keep: a box is dropped if less than this share of it remains in the picture.
    """

    def __init__(
        self,
        flip: bool = False,
        scale: NonNegativeFloat = 0.0,
        shift: Fraction = 0.0,
        colour: Fraction = 0.0,
        keep: Fraction = 0.4,
    ) -> None:
        self.flip, self.scale, self.shift, self.colour, self.keep = flip, scale, shift, colour, keep

    def __call__(self, batch: Batch, seed: int, epoch: int) -> Batch:
        """Change `image` (B, C, H, W), floats in 0 to 255, and with it `boxes`, `box_label` and `box_crowd`."""
        image = batch["image"]
        random = uniform_of_epoch(seed, epoch, batch["index"], 6 + image.shape[1]).to(image.dtype)
        if self.colour:
            image = self._coloured(image, 2 * random[:, 4:] - 1)
        if not (self.flip or self.scale or self.shift):
            return batch | {"image": image}
        zoom, move = self._affine(random)
        return batch | {"image": moved(image, zoom, move), **self._boxes(batch, zoom, move, image.shape)}

    def _affine(self, random: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2) zoom of x and y, negative for a mirror image, and (B, 2) shift; -1 to 1 is the picture."""
        zoom = (1 + self.scale) ** (2 * random[:, :1] - 1)
        mirror = torch.where(random[:, 1:2] < 0.5 * self.flip, -1, 1)
        return torch.cat([zoom * mirror, zoom], 1), 2 * self.shift * (2 * random[:, 2:4] - 1)

    def _coloured(self, image: Tensor, random: Tensor) -> Tensor:
        """`random` is (B, 2 + C) in [-1, 1): for the brightness, the contrast and each channel."""
        change = self.colour * random[..., None, None]
        mean = image.mean((1, 2, 3), keepdim=True)
        image = (image - mean) * (1 + change[:, 1:2]) + mean * (1 + change[:, :1])
        return (image * (1 + change[:, 2:])).clamp(0, 255)

    def _boxes(self, batch: Batch, zoom: Tensor, move: Tensor, shape: torch.Size) -> Batch:
        side = torch.tensor([shape[3], shape[2]], dtype=zoom.dtype, device=zoom.device)
        old, label = batch["boxes"], batch["box_label"]
        corners = old.unflatten(-1, (2, 2))  # (B, N, corner, axis)
        corners = (corners / side * 2 - 1) * zoom[:, None, None] + move[:, None, None]
        corners = ((corners + 1) / 2 * side).sort(2).values  # a mirror image exchanges left and right
        inside = corners.clamp(min=torch.zeros_like(side), max=side)
        area, left = ((c[:, :, 1] - c[:, :, 0]).prod(-1) for c in (corners, inside))
        kept = (label >= 0) & (left >= self.keep * area) & (left > 0)
        return {
            "boxes": inside.flatten(-2) * kept[..., None],
            "box_label": label.where(kept, -1),
            "box_crowd": batch["box_crowd"] * kept,
        }


def moved(image: Tensor, zoom: Tensor, move: Tensor) -> Tensor:
    """Zoom and shift each picture; the coordinates of the result are zoom · x + move, from -1 to 1."""
    inverse = torch.diag_embed(1 / zoom)  # `affine_grid` maps the result to the picture
    theta = torch.cat([inverse, -(move / zoom)[..., None]], 2)
    grid = F.affine_grid(theta.to(image), list(image.shape), align_corners=False)
    return F.grid_sample(image - GREY, grid, align_corners=False) + GREY
