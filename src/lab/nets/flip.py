import inspect

from torch import Tensor, nn


class TestTimeFlip(nn.Module):
    """Outside training, the mean of a net's logits for an image and for its mirror image; in training, the net.

    Args:
        net: takes `image` alone.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if (entries := list(inspect.signature(net.forward).parameters)) != ["image"]:
            raise ValueError(f"TestTimeFlip: expected a net that takes image; {type(net).__name__} takes {entries}")
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        logits: Tensor = self.net(image)
        if self.training:
            return logits
        logits = logits.clone()  # a CUDA graph overwrites them with the next ones
        return (logits + self.net(image.flip(-1))) / 2
