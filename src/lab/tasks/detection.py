import json
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine.constraints import Fraction, Share
from lab.features.base import Feature
from lab.features.boxes import Detections
from lab.metrics.detection import MeanAveragePrecision
from lab.nets.detector import Candidates
from lab.tasks.base import Stage, Step, Task
from lab.tasks.suppression import select


class Detection(Task):
    """Finds objects and their boxes. Reports the mean average precision of COCO (`map`, `map_50`).

    At test it also reports `map_75`, the average precision of each class, and that of small, medium and large objects.
    Boxes are scored in pixels of the original pictures.

    Args:
        box_weight: of the part `box` of the loss (generalised IoU; Rezatofighi et al. 2019). Other parts have 1.
        max_boxes: the largest number of boxes that are found in a picture.
        max_iou: of two boxes of a class that overlap more, only the one with the higher score is kept.
        threshold: `lab predict` and figures show boxes with at least this score. Metrics use all boxes.
    """

    net: Any
    keeps: ClassVar = ("found_boxes", "score", "found_label", "true_boxes", "true_label", "true_crowd", "original")

    def __init__(
        self,
        num_classes: PositiveInt,
        class_names: list[str],
        box_weight: NonNegativeFloat = 2.0,
        max_boxes: PositiveInt = 100,
        max_iou: Share = 0.6,
        threshold: Fraction = 0.3,
        **kwargs: Any,
    ) -> None:
        metrics = {
            "val": MetricCollection({"ap": MeanAveragePrecision(class_names, is_short=True)}),
            "test": MetricCollection({"ap": MeanAveragePrecision(class_names)}),
        }
        super().__init__(metrics=metrics, **kwargs)
        self.class_names, self.box_weight = class_names, box_weight
        self.max_boxes, self.max_iou, self.threshold = max_boxes, max_iou, threshold

    def step(self, batch: Batch, stage: Stage) -> Step:
        image, true_boxes = batch["image"], batch["boxes"]
        parts, candidates = self.net.losses(image, true_boxes, label_without_crowds(batch))
        loss = torch.stack([part * (self.box_weight if name == "box" else 1) for name, part in parts.items()]).sum()
        if stage == "train":
            return Step(loss, parts)
        true = {
            "true_boxes": to_original(true_boxes, batch["original"], image.shape[-1]),
            "true_label": batch["box_label"],
            "true_crowd": batch["box_crowd"],
        }
        known = {name: batch[name] for name in ("original", "index")}
        return Step(loss, parts, self._found(candidates or self(batch), batch) | true | known)

    def _found(self, candidates: Candidates, batch: Batch) -> dict[str, Tensor]:
        side = batch["image"].shape[-1]
        boxes, score, label = select(*candidates, side, self.max_boxes, self.max_iou)
        return {"found_boxes": to_original(boxes, batch["original"], side), "score": score, "found_label": label}

    def size(self, batch: Batch) -> Any:
        return self.net.num_terms(label_without_crowds(batch))

    @property
    def input_entries(self) -> Sequence[str]:
        return ("image", "original")

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"picture": Detections(self.class_names, self.threshold)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._found(self(batch), batch)

    def explained_net(self) -> nn.Module:
        return BestLogits(self.net)

    def explained_probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        """The true objects and the found objects of each picture as JSON."""
        names = ("true_boxes", "true_label"), ("found_boxes", "found_label", "score")
        true, found = ([outputs[name].tolist() for name in each] for each in names)
        return {
            "objects": [self._as_json(*each) for each in zip(*true, strict=True)],
            "found": [self._as_json(*each) for each in zip(*found, strict=True)],
        }

    def _as_json(self, boxes: list[list[float]], label: list[int], score: list[float] | None = None) -> str:
        scores = [1.0] * len(label) if score is None else score
        return json.dumps(
            [
                {"class": self.class_names[k], "box": [round(x, 1) for x in box]}
                | ({} if score is None else {"score": round(s, 4)})
                for box, k, s in zip(boxes, label, scores, strict=True)
                if k >= 0 and s >= self.threshold
            ],
            ensure_ascii=False,
        )

    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        from lab.figures.detection import detection  # importing matplotlib takes half a second

        side = samples[torch.tensor([0])]["image"].shape[-1]
        ratio = fitted_size(outputs["original"], side) / outputs["original"]
        return detection(outputs | {"ratio": ratio}, self.class_names, self.threshold, samples)


def label_without_crowds(batch: Batch) -> Tensor:
    """(B, N) classes of the objects; -1 for padding and for crowds, which are not trained."""
    return batch["box_label"].where(batch["box_crowd"] == 0, -1)


class BestLogits(nn.Module):
    """The largest logit of each class over all candidates: how certain the net is that the picture has the class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, S, S) image -> (B, num_classes) logits."""
        return self.net(image)[1].amax(1)


def fitted_size(original: Tensor, side: int) -> Tensor:
    """(B, 2) width and height of pictures -> (B, 2) those of the letterboxed pictures, without the padding.

    The computation is that of `lab.features.read_image.fitted`.
    """
    longest = original.amax(1, keepdim=True)
    return ((2 * original * side + longest) // (2 * longest)).clamp(min=1)


def to_original(boxes: Tensor, original: Tensor, side: int) -> Tensor:
    """(B, N, 4) boxes in a letterboxed picture of `side` pixels -> boxes in pixels of the original picture.

    Args:
        boxes: the boxes.
        original: (B, 2) width and height of the original pictures.
        side: of the letterboxed picture.
    """
    size, original = fitted_size(original, side).to(boxes.dtype), original.to(boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), size.repeat(1, 2)[:, None])
    return boxes * (original / size).repeat(1, 2)[:, None]
