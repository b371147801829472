from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction


class CNN(nn.Module):
    """The seed's two convolutions and two linear layers, in both of its listings.

    The seed flattens to 64·6·6 whatever it is given, which is right for 10 pixels without pooling and for 30 to 33
    with it; here the size follows from the image's. The seed also ends in a log-softmax, which its cross-entropy then
    applies a second time (to no effect, since log-softmax of a log-softmax is itself): this one returns logits.

    Args:
        pool: a 2×2 max-pool after each convolution.
        dropout: probability of dropping a hidden unit before the last layer.
        hidden: units of the layer between convolutions and logits.
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
        side = image_size - 2  # what a 3×3 convolution leaves
        side = (side // 2 if pool else side) - 2
        side = side // 2 if pool else side
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
