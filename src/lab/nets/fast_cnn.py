from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import FourWidths


class FastCNN(nn.Module):
    """Four 3×3 convolutions for images of about 28 pixels on a CPU.

    Large images need most of the arithmetic, so the first two convolutions have stride 2. The last layer takes the
    remaining 3×3 positions, flattened. Their average would lower the accuracy on Fashion-MNIST by about 0.005.

    Args:
        widths: channels of the four convolutions.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        widths: FourWidths = (32, 64, 64, 128),
    ) -> None:
        super().__init__()
        first, second, third, fourth = widths
        side = -(-image_size // 4) // 2
        if side < 1:
            raise ValueError(f"FastCNN needs images of 5 pixels or more, got {image_size}")
        self.layers = nn.Sequential(
            convolution(num_channels, first, stride=2),
            convolution(first, second, stride=2),
            convolution(second, third),
            nn.MaxPool2d(2),
            convolution(third, fourth),
            nn.Flatten(),
            nn.Linear(fourth * side * side, num_classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.layers(image)


class ResNet9(nn.Module):
    """Six 3×3 convolutions and two residual ones, after Page (2018, https://myrtle.ai/learn/how-to-train-your-resnet).

    Args:
        widths: channels of the first two convolutions and of the two residual stages.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        widths: FourWidths = (32, 64, 128, 256),
    ) -> None:
        super().__init__()
        first, second, third, fourth = widths
        side = -(-image_size // 2) // 4
        if side < 1:
            raise ValueError(f"ResNet9 needs images of 7 pixels or more, got {image_size}")
        self.layers = nn.Sequential(
            convolution(num_channels, first, stride=2),
            convolution(first, second),
            nn.MaxPool2d(2),
            convolution(second, third),
            Residual(third),
            nn.MaxPool2d(2),
            convolution(third, fourth),
            Residual(fourth),
            nn.Flatten(),
            nn.Linear(fourth * side * side, num_classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.layers(image)


class Residual(nn.Module):
    """x + f(x), where f is one convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.residual(x)


def convolution(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution, batch norm, ReLU."""
    layers = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    return nn.Sequential(*layers)
