from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models
from torchvision.models import detection

from lab.nets.detector import Candidates, DetectionNet

MOST = 100  # boxes of a picture
SURE = 1e-6  # scores are clamped to [SURE, 1 - SURE], which have finite logits


class TorchvisionDetection(DetectionNet):
    """A detector of torchvision, with its own loss and its own suppression of near duplicates.

    Its classes are 1 to N, and 0 is background; here they are 0 to N - 1. Pretrained weights are kept where their
    shapes fit. The data has normalised the picture: the net does not do it again.

    Args:
        name: as in `torchvision.models.list_models(module=torchvision.models.detection)`.
        weights: as `torchvision.models.get_model` takes them: null, DEFAULT, COCO_V1.
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
        names = models.list_models(module=detection)
        if name not in names:
            raise ValueError(f"torchvision has no detector {name!r}; it has {', '.join(names)}")
        if num_channels not in (1, 3):
            raise ValueError(f"expected pictures of 1 or 3 channels, got {num_channels}")
        builder = models.get_model_builder(name)
        size = {} if "ssd" in name else {"min_size": image_size, "max_size": image_size}
        self.model = builder(weights=None, weights_backbone=None, num_classes=num_classes + 1, **size)
        self.model.transform.image_mean, self.model.transform.image_std = [0.0] * 3, [1.0] * 3
        self.num_classes = num_classes
        if weights is not None:
            self._load(models.get_model_weights(name)[weights].get_state_dict(check_hash=True))

    def _load(self, state: dict[str, Tensor]) -> None:
        """Load the weights whose shapes fit: all but the layers with an output for each class."""
        own = self.model.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        self.model.load_state_dict(fitting, strict=False)

    def forward(self, image: Tensor) -> Candidates:
        """The boxes that torchvision returns. A candidate has a logit for its class only; others are -inf."""
        with _mode(self.model, False):
            found = self.model(list(image.expand(-1, 3, -1, -1)))
        boxes = image.new_zeros(len(image), MOST, 4, dtype=torch.float32)
        logits = boxes.new_full((len(image), MOST, self.num_classes), -torch.inf)
        for i, each in enumerate(found):
            kept = slice(min(MOST, len(each["scores"])))
            score, kind = each["scores"][kept].float().clamp(SURE, 1 - SURE), each["labels"][kept] - 1
            row = torch.arange(len(score), device=image.device)
            boxes[i, row], logits[i, row, kind] = each["boxes"][kept].float(), score.logit()
        return boxes, logits

    def losses(self, image: Tensor, boxes: Tensor, label: Tensor) -> tuple[dict[str, Tensor], None]:
        """The losses of torchvision. In evaluation, the anchors that they sample are the same in every call."""
        targets = [{"boxes": b[k >= 0], "labels": k[k >= 0] + 1} for b, k in zip(boxes, label, strict=True)]
        pictures = list(image.expand(-1, 3, -1, -1))
        if self.training:
            return dict(self.model(pictures, targets)), None
        devices = [image.device] if image.is_cuda else []
        with torch.random.fork_rng(devices), _mode(self.model, True):
            torch.manual_seed(0)
            return dict(self.model(pictures, targets)), None


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the modules that choose between loss and boxes into a mode. Norms and dropout keep theirs."""
    before = {module: module.training for module in model.modules() if not isinstance(module, _BatchNorm | nn.Dropout)}
    for module in before:
        module.training = training
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
