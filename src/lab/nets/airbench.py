import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Widths
from lab.nets.base import InitFromData, TrainingSamples


class Airbench(nn.Module, InitFromData):
    """The network of airbench94 (Jordan 2024, https://arxiv.org/abs/2404.00498, section 3) for images of 32 pixels.

    A fixed first layer whitens the 2×2 patches of the training images (section 3.2). Convolutions start as the identity
    (3.3). Batch norm learns biases but no scales (3.4); `lab.optim.BiasSGD` gives them a higher learning rate.

    Args:
        widths: channels of the three stages. Each stage has two convolutions, and the first halves the image.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        widths: Widths = (64, 256, 256),
    ) -> None:
        super().__init__()
        side = (image_size - 1) // 8  # after the first layer and three halvings
        if side < 1:
            raise ValueError(f"Airbench needs images of 9 pixels or more, got {image_size}")
        num_patches = 8 * num_channels
        whiten = nn.Conv2d(num_channels, num_patches, 2)
        whiten.weight.requires_grad = False
        whiten.bias = nn.Parameter(torch.zeros(num_patches))
        self.whiten = nn.Sequential(whiten, nn.GELU())
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip([num_patches, *widths], widths, strict=False)))
        self.head = nn.Sequential(nn.MaxPool2d(side), nn.Flatten(), nn.Linear(widths[-1], num_classes, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.head(self.stages(self.whiten(image))) / 9  # section 3.1

    @torch.no_grad()
    def init_from(self, samples: TrainingSamples) -> None:
        self.whiten[0].get_parameter("weight").copy_(whitening_filters(patch_covariance(samples)))


def patch_covariance(samples: TrainingSamples, num_images: int = 1000) -> Tensor:
    """(4C, 4C) float64 covariance E[p pᵀ] of the 2×2 patches p of `num_images` images, in the order of conv weights."""
    total, num_patches = torch.zeros((), dtype=torch.float64), 0
    for index in torch.arange(0, len(samples), -(-len(samples) // num_images)).split(100):
        image = samples[index]["image"]
        corners = [image[:, :, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
        patches = torch.stack(corners, 2).flatten(1, 2).transpose(0, 1).flatten(1)  # (4C, patches of all images)
        total, num_patches = total + patches @ patches.T, num_patches + patches.shape[1]
    return total / num_patches


def whitening_filters(covariance: Tensor) -> Tensor:
    """(4C, 4C) covariance -> (8C, C, 2, 2) filters: eigenvectors over roots of eigenvalues, then their negatives."""
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0)  # the largest first
    filters = filters.view(len(filters), -1, 2, 2).float()
    return torch.cat([filters, -filters])


class Stage(nn.Module):
    """Two convolutions. The first halves the image."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.halve = nn.Sequential(identity_convolution(num_in, num_out), nn.MaxPool2d(2))
        self.convolution = identity_convolution(num_out, num_out)
        self.norms = nn.ModuleList([bias_norm(num_out), bias_norm(num_out)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H / 2, W / 2)."""
        x = F.gelu(self.norms[0](self.halve(x)))
        return F.gelu(self.norms[1](self.convolution(x)))


def identity_convolution(num_in: int, num_out: int) -> nn.Conv2d:
    """A 3×3 convolution. Its first `num_in` output channels start as copies of the input."""
    convolution = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:num_in])
    return convolution


def bias_norm(num_channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(num_channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad = False
    return norm
