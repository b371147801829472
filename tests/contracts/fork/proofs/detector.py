"""A detector of bright rectangles: ragged targets, and boxes in the pixels of the original picture."""

import json
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lab.data.base import Data
from lab.data.batches import Batches, Tensors
from lab.data.data_report import digest, fingerprint
from lab.data.facts import Facts
from lab.features.base import Feature
from lab.figures.images import images
from lab.tasks.base import Batch, Stage, Step, Task
from proofs.features import Boxes, Photo


class Rectangles(Data):
    """Pictures of one or two rectangles: `image` (B, 1, H, W), `original` (B, 2), `boxes` (B, 2, 4), `box_label`."""

    features: ClassVar = {"image": Photo, "boxes": Boxes}

    def __init__(self, num_pictures: PositiveInt = 160, image_size: PositiveInt = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_pictures, self.image_size = num_pictures, image_size

    def read(self) -> tuple[dict[str, Batches], Facts]:
        random = np.random.default_rng(self.split_seed)
        pictures = [_picture(random, self.image_size) for _ in range(self.num_pictures)]
        arrays = {name: np.stack([picture[name] for picture in pictures]) for name in pictures[0]}
        everything = Tensors(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        parts = self.draw(self.num_pictures, {"val": 0.25, "test": 0.25})
        contents = {name: [digest(arrays["image"][i].tobytes()) for i in index] for name, index in parts.items()}
        self.report.describe(contents, self.names)
        features = {"image": Photo(1, self.image_size), "boxes": Boxes(2)}
        facts = Facts(features, {name: len(index) for name, index in parts.items()}, fingerprint(contents))
        return {name: everything.subset(index) for name, index in parts.items()}, facts

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        return batch | {"image": batch["image"].float() / 255} if "image" in batch else batch


def _picture(random: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    image, boxes, label = np.zeros((1, size, size), np.uint8), np.zeros((2, 4), np.float32), np.full(2, -1)
    for i in range(random.integers(1, 3)):  # one in the left half, perhaps one in the right
        x0, y0 = random.integers(0, 3, 2)
        x0 += i * size // 2
        w, h = random.integers(3, size // 2 - 2, 2)
        image[0, y0 : y0 + h, x0 : x0 + w] = 255
        boxes[i], label[i] = np.array([x0, y0, x0 + w, y0 + h]) / size, 0
    return {"image": image, "original": np.array([size, 2 * size], np.float32), "boxes": boxes, "box_label": label}


class BoxNet(nn.Module):
    """A box for each of `max_boxes` slots, and the logit that there is one."""

    def __init__(self, num_channels: int, image_size: int, max_boxes: int, width: PositiveInt = 64) -> None:
        super().__init__()
        self.max_boxes = max_boxes
        size = num_channels * image_size**2
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, 5 * max_boxes))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image -> (B, max_boxes, 5): corners, then the logit."""
        x = self.layers(image).view(-1, self.max_boxes, 5)
        return torch.cat([x[..., :4].sigmoid(), x[..., 4:]], -1)


class MeanIoU(Metric):
    """The mean intersection over union of the boxes that there are, with what the same slot predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, boxes: Tensor, true_boxes: Tensor, true_label: Tensor) -> None:
        low = torch.maximum(boxes[..., :2], true_boxes[..., :2])
        high = torch.minimum(boxes[..., 2:], true_boxes[..., 2:])
        both = (high - low).clamp(min=0).prod(-1)
        areas = ((b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (boxes, true_boxes))
        iou = both / (sum(areas) - both).clamp(min=1e-6)
        self.total += iou[true_label >= 0].double().sum()
        self.num += (true_label >= 0).sum()

    def compute(self) -> Tensor:
        return (self.total / self.num).float()


class Detection(Task):
    """L1 of the corners, and binary cross-entropy of whether there is a box; reports the mean IoU."""

    keeps = ("boxes",)

    def __init__(self, max_boxes: int, **kwargs: Any) -> None:
        metrics = {"train": {}, "val": {"iou": MeanIoU()}, "test": {"iou": MeanIoU()}}
        super().__init__(metrics={stage: MetricCollection(m) for stage, m in metrics.items()}, **kwargs)
        self.max_boxes = max_boxes

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"found": Boxes(self.max_boxes, prefix="found_")}

    def step(self, batch: Batch, stage: Stage) -> Step:
        found, there = self(batch), batch["box_label"] >= 0
        corners = (found[..., :4] - batch["boxes"]).abs().mean(-1)
        parts = {
            "corners": (corners * there).sum() / len(there),
            "presence": F.binary_cross_entropy_with_logits(found[..., 4], there.float()),
        }
        outputs = {"boxes": found[..., :4], "true_boxes": batch["boxes"], "true_label": batch["box_label"]}
        return Step(parts["corners"] + parts["presence"], parts, outputs)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        found = self(batch)
        return {"found_boxes": found[..., :4], "found_box_label": (found[..., 4] > 0).long() - 1}

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, list[Any]]:
        return {"boxes": [json.dumps(rows) for rows in outputs["boxes"].double().round(decimals=3).tolist()]}

    def figures(self, samples: Any, outputs: dict[str, Tensor]) -> dict[str, Any]:
        boxes = outputs["boxes"]
        batch = samples[torch.arange(min(8, len(boxes)))]
        titles = [f"{len(rows)} boxes" for rows in boxes[:8].tolist()]
        return {"found": images(batch["image"] / 255, titles, "test pictures")}
