from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction, Widths


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Args:
        widths: units of each hidden layer.
        batch_norm: add batch norm before each ReLU.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        widths: Widths = (256, 128),
        batch_norm: bool = False,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for num_in, num_out in pairwise([num_channels * image_size**2, *widths]):
            layers.append(nn.Linear(num_in, num_out))
            if batch_norm:
                layers.append(nn.BatchNorm1d(num_out))
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.layers(image)
