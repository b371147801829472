import inspect
from typing import Any

from torch import Tensor, nn


class TestTimeFlip(nn.Module):
    """The net in training; in evaluation, the mean of its logits for an image and the mirror image.

    The weights have the names of the weights of the net: a checkpoint of either fits the other.

    Args:
        net: a net whose only input is `image`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if (entries := list(inspect.signature(net.forward).parameters)) != ["image"]:
            raise ValueError(f"TestTimeFlip: expected a net that takes image; {type(net).__name__} takes {entries}")
        self.net = net
        self.register_state_dict_post_hook(_without_net)
        self.register_load_state_dict_pre_hook(_with_net)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        logits: Tensor = self.net(image)
        if self.training:
            return logits
        logits = logits.clone()  # a CUDA graph overwrites its outputs in the next call
        return (logits + self.net(image.flip(-1))) / 2


def _without_net(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, f"{prefix}net.", prefix)


def _with_net(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, prefix, f"{prefix}net.")


def _rename(state: dict[str, Any], prefix: str, other: str) -> None:
    """Replace a prefix of the names, and keep their order."""
    for name in list(state):
        value = state.pop(name)
        state[other + name.removeprefix(prefix) if name.startswith(prefix) else name] = value
