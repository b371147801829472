"""Detection nets: each cell of a feature map answers for one object."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import FiveWidths
from lab.nets import assignment

RARE = -4.6  # the first logit of a class: a probability of 0.01 (Lin et al. 2017, section 4.1)
Candidates = tuple[Tensor, Tensor]  # (B, A, 4) boxes and (B, A, K) logits


class DetectionNet(nn.Module, ABC):
    """What `lab.tasks.detection.Detection` expects of a net: candidates for the boxes of a picture, and a loss."""

    @abstractmethod
    def forward(self, image: Tensor) -> Candidates:
        """(B, C, S, S) image -> (B, A, 4) float32 boxes in pixels of the image, and (B, A, num_classes) logits."""

    @abstractmethod
    def losses(self, image: Tensor, boxes: Tensor, label: Tensor) -> tuple[dict[str, Tensor], Candidates | None]:
        """The parts of the loss, each a mean of `num_terms` terms, and the candidates if they are known then.

        Args:
            image: (B, C, S, S).
            boxes: (B, N, 4) of the objects.
            label: (B, N) classes of the objects; -1 is padding.
        """

    def num_terms(self, label: Tensor) -> Tensor | int:
        """The number of terms that the loss of a batch is the mean of: the pictures."""
        return len(label)


class AnchorFree(DetectionNet):
    """A net whose candidates A are the cells of its feature maps, in the order of `strides`, each map row by row.

    `strides` has the pixels between neighbouring cells of each feature map.
    """

    strides: tuple[int, ...]

    def losses(self, image: Tensor, boxes: Tensor, label: Tensor) -> tuple[dict[str, Tensor], Candidates | None]:
        """The parts `class` and `box` of `lab.nets.assignment.losses`."""
        found, logits = self(image)
        return assignment.losses(found, logits, centres(image, self.strides), boxes, label), (found, logits)

    def num_terms(self, label: Tensor) -> Tensor | int:
        """Pictures and objects."""
        return len(label) + (label >= 0).sum()


class Detector(AnchorFree):
    """A small residual net with one feature map of stride 8, to which coarser maps are added (Lin et al. 2016).

    Each cell has a logit for each class and the distances to the four edges of its object, as in FCOS (Tian et al.
    2019), but with a single feature map: objects may have any size.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        num_blocks: residual blocks at each stride from 8 on.
        width: channels of the joint feature map and of the heads.
    """

    strides = (8,)

    def __init__(
        self,
        num_channels: PositiveInt,
        num_classes: PositiveInt,
        widths: FiveWidths = (16, 32, 64, 96, 128),
        num_blocks: PositiveInt = 1,
        width: PositiveInt = 64,
    ) -> None:
        super().__init__()
        stem, first, *others = widths
        self.stem = nn.Sequential(convolution(num_channels, stem, 2), convolution(stem, first, 2), Residual(first))
        sizes = zip([first, *others], others, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(convolution(a, b, 2), *(Residual(b) for _ in range(num_blocks))) for a, b in sizes
        )
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in others)
        self.fuse = convolution(width, width)
        self.kind = nn.Sequential(convolution(width, width), head(width, num_classes, RARE))
        self.edges = nn.Sequential(convolution(width, width), head(width, 4, 0.7))  # e^0.7 = 2 cells to each edge

    def forward(self, image: Tensor) -> Candidates:
        x = self.stem(image)
        maps = [x := stage(x) for stage in self.stages]
        joint = self.laterals[-1](maps[-1])
        for lateral, finer in zip(self.laterals[-2::-1], maps[-2::-1], strict=True):
            joint = lateral(finer) + F.interpolate(joint, finer.shape[2:])
        joint = self.fuse(joint)
        distance = self.edges(joint).flatten(2).mT.float().clamp(max=6).exp() * self.strides[0]
        centre = centres(image, self.strides)[:, :2]
        boxes = torch.cat([centre - distance[..., :2], centre + distance[..., 2:]], -1)
        return boxes, self.kind(joint).flatten(2).mT.float()


class Residual(nn.Module):
    """x + f(x), with two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    """3×3, batch norm, SiLU. The norm's averages are slow because batches are small."""
    layer = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(num_out, momentum=0.03), nn.SiLU(inplace=True))


def head(width: int, num_out: int, bias: float) -> nn.Conv2d:
    """The last layer, 3×3; `bias` is its first output for features of zero."""
    layer = nn.Conv2d(width, num_out, 3, padding=1)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


def centres(image: Tensor, strides: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) image -> (A, 3): x and y of the centre of each cell in pixels, and its stride."""
    found = []
    for stride in strides:
        rows, columns = (-(-side // stride) for side in image.shape[2:])
        y = torch.arange(rows, device=image.device)[:, None].expand(rows, columns)
        x = torch.arange(columns, device=image.device).expand(rows, columns)
        place = (torch.stack([x, y], -1).flatten(0, 1) + 0.5) * stride
        found.append(F.pad(place, (0, 1), value=float(stride)))
    return torch.cat(found)
