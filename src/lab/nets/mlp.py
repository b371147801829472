from collections.abc import Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn

from lab.types import Fraction


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        widths: units of each hidden layer.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        widths: Sequence[PositiveInt] = (256, 128),
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        sizes = [num_channels * image_size**2, *widths]
        hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU(), nn.Dropout(dropout))]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_classes))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.layers(image)
