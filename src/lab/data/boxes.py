"""Pictures with boxes: what all data modules for object detection share."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from lab.data.base import Data
from lab.data.batches import Batch
from lab.data.box_augment import BoxAugment
from lab.data.data_report import fingerprint
from lab.data.facts import Facts
from lab.data.pixels import normalise
from lab.features.base import Feature, sample_of
from lab.features.boxes import Boxes
from lab.features.letterbox import Letterbox


class BoxData(Data):
    """Batches of `image` (B, C, S, S), `original` (B, 2), `boxes` (B, N, 4), `box_label`, `box_crowd` and `index`.

    The features `image` and `objects` describe them. N is the same in all batches. Pictures are copied to the device as
    uint8 and become floats there. Training pictures are changed by `augment`. All are normalised by the mean and
    standard deviation of the training split.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"image": Letterbox, "objects": Boxes}

    def __init__(self, augment: BoxAugment | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment = augment

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        if "image" not in batch:
            return batch
        image = batch["image"]  # 0 to 255
        batch = batch | {"image": image if image.is_floating_point() else image.float()}
        if self.augment and self.trainer is not None and self.trainer.training:
            batch = self.augment(batch, self.seed, self.trainer.current_epoch)
        return batch | {"image": normalise(batch["image"], *self.facts.features["image"].statistics())}

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        from lab.figures.detection import pictures  # importing matplotlib takes half a second

        return pictures(batch["image"] / 255, captions, title, [(batch["boxes"], batch["box_label"])])

    def figures(self, batch: Batch) -> dict[str, Any]:
        from lab.figures.detection import pictures

        image = batch["image"].float().cpu()
        mean, std = (torch.tensor(share)[:, None, None] for share in self.facts.features["image"].statistics())
        objects = self.facts.features["objects"]
        arrays = {name: batch[name].cpu().numpy() for name in objects.entries}
        captions = [objects.caption(sample_of(arrays, i, arrays)) for i in range(len(image))]
        title, boxes = "training samples as the net sees them", [(batch["boxes"].cpu(), batch["box_label"].cpu())]
        return {"samples": pictures(image * std + mean, captions, title, boxes)}


def padded_boxes(
    boxes: Sequence[np.ndarray], label: Sequence[np.ndarray], max_boxes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes and (N,) classes of each picture -> (B, `max_boxes`, 4) padded with 0, (B, `max_boxes`) with -1."""
    every, kind = np.zeros((len(boxes), max_boxes, 4), np.float32), np.full((len(boxes), max_boxes), -1)
    for i, (some, of) in enumerate(zip(boxes, label, strict=True)):
        every[i, : len(some)], kind[i, : len(some)] = some, of
    return every, kind


def box_facts(image: Letterbox, class_names: list[str], max_boxes: int, contents: dict[str, list[bytes]]) -> Facts:
    """The facts of pictures with boxes.

    Args:
        image: the feature of the pictures.
        class_names: the names of the classes.
        max_boxes: the largest number of boxes in a picture of any split.
        contents: a digest of each picture and its boxes, for each split.
    """
    return Facts(
        {"image": image, "objects": Boxes(class_names, max_boxes)},
        num_samples={name: len(each) for name, each in contents.items()},
        fingerprint=fingerprint(contents, None, class_names),
    )
