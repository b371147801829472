from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Widths


class ResNet(nn.Module):
    """Pre-activation residual blocks (He et al. 2016b) for images of about 32 pixels.

    The ResNet for ImageNet starts with a 7×7 convolution and a pool, which each halve the image. That is too much for
    28 pixels. Here the first convolution is 3×3 and keeps the size. Each stage after the first halves it.

    Args:
        widths: channels of each stage.
        num_blocks: residual blocks of each stage.
        stem_stride: stride of the first convolution; 2 takes a quarter of the time.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        num_classes: PositiveInt,
        widths: Widths = (16, 32, 64),
        num_blocks: PositiveInt = 1,
        stem_stride: PositiveInt = 1,
    ) -> None:
        super().__init__()
        width = widths[0]
        self.stem = nn.Conv2d(num_channels, width, 3, stem_stride, padding=1, bias=False)
        blocks = []
        for i, out in enumerate(widths):
            for j in range(num_blocks):
                blocks.append(Block(width, out, stride=2 if i > 0 and j == 0 else 1))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.head(self.blocks(self.stem(image)))


class Block(nn.Module):
    """x + f(x): two 3×3 convolutions, each after batch norm and ReLU. The shortcut is 1×1 if the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm2d(num_in), nn.ReLU())
        same = num_in == num_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(num_in, num_out, 1, stride, bias=False)
        self.residual = nn.Sequential(
            nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(num_out),
            nn.ReLU(),
            nn.Conv2d(num_out, num_out, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H / stride, W / stride)."""
        active = self.norm(x)
        return self.residual(active) + (x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active))
