from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction


class CNN(nn.Module):
    """The baseline CNN: two convolutions and two linear layers.

    The original flattens to 64·6·6 features for every image. That fits 10 pixels without pooling, and 30 to 33 pixels
    with it; here the number follows from `image_size`. The original also ends in a log-softmax, which its cross-entropy
    applies again, without effect; this net returns logits.

    Args:
        pool: add a 2×2 max-pool after each convolution.
        dropout: probability of dropping a hidden unit before the last layer.
        hidden: units of the hidden linear layer.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        pool: bool = True,
        dropout: Fraction = 0.5,
        hidden: PositiveInt = 128,
    ) -> None:
        super().__init__()
        shrink = 2 if pool else 1
        side = ((image_size - 2) // shrink - 2) // shrink  # each 3×3 convolution removes 2 pixels
        if side < 1:
            raise ValueError(f"CNN needs images of {10 if pool else 5} pixels or more, got {image_size}")
        self.num_features = 64 * side * side
        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2) if pool else nn.Identity(),
            nn.Flatten(),
            nn.Linear(self.num_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.layers(image)
