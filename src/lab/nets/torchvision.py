from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision import models


class TorchvisionNet(nn.Module):
    """A classification model of torchvision, with its first convolution and its head fitted to the data.

    Pretrained weights are kept if the shapes allow it. For greyscale images, the weights of the first convolution are
    summed over the colours: the logits are those of the original for a grey image.

    Args:
        name: as in `torchvision.models.list_models(module=torchvision.models)`.
        weights: as `torchvision.models.get_model` takes them: null, DEFAULT, IMAGENET1K_V2.
    """

    def __init__(
        self,
        num_channels: PositiveInt,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        name: str,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        names = models.list_models(module=models)
        if name not in names:
            raise ValueError(f"torchvision has no classification model {name!r}; it has {', '.join(names)}")
        options: dict[str, Any] = {}
        if name.startswith("vit_"):  # the size of its position embedding depends on the image
            options["image_size"] = image_size
        if name in ("googlenet", "inception_v3"):  # one output, not three; the data is already normalised
            options |= {"aux_logits": False, "init_weights": True} if weights is None else {"transform_input": False}
        self.model = models.get_model(name, weights=weights, **options)
        if isinstance(self.model, models.Inception3):
            self.model.aux_logits, self.model.AuxLogits = False, None
        _fit_first_convolution(self.model, num_channels)
        _fit_head(self.model, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, num_classes) logits."""
        return self.model(image)


def _fit_first_convolution(model: nn.Module, num_channels: int) -> None:
    path, old = next((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if old.in_channels == num_channels:
        return
    padding = old.padding if isinstance(old.padding, str) else _pair(old.padding)
    size, stride = _pair(old.kernel_size), _pair(old.stride)
    new = nn.Conv2d(num_channels, old.out_channels, size, stride, padding, bias=old.bias is not None)
    if num_channels == 1:
        new.weight.data.copy_(old.weight.data.sum(1, keepdim=True))
    if old.bias is not None and new.bias is not None:
        new.bias.data.copy_(old.bias.data)
    model.set_submodule(path, new)


def _pair(sides: tuple[int, ...]) -> tuple[int, int]:
    height, width = sides
    return height, width


def _fit_head(model: nn.Module, num_classes: int) -> None:
    path, old = [(path, m) for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    if isinstance(old, nn.Linear):
        model.set_submodule(path, nn.Linear(old.in_features, num_classes))
    else:  # squeezenet ends in a convolution
        model.set_submodule(path, nn.Conv2d(old.in_channels, num_classes, _pair(old.kernel_size)))
