"""The mean average precision of COCO over a whole split, also over several processes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lab.engine.errors import UserError

MOST = 100  # found boxes of a picture that are scored, as in COCO
SIZES = ("small", "medium", "large")


class MeanAveragePrecision(Metric):
    """Average precision (Lin et al. 2014), the mean over classes and over IoU 0.50, 0.55, …, 0.95.

    A mean over batches differs from this value, so the boxes of all pictures are kept until `compute`. Sizes are thirds
    of the true boxes by area: COCO's limits of 32² and 96² pixels fit photographs of 640 pixels only. Classes and sizes
    without a true box have no value.

    Args:
        class_names: the names of the classes.
        is_short: compute `map` and `map_50` only.
    """

    found: list[Tensor]
    true: list[Tensor]
    index: list[Tensor]

    def __init__(self, class_names: list[str], is_short: bool = False) -> None:
        super().__init__()
        self.class_names, self.is_short = class_names, is_short
        for name in ("found", "true", "index"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        found_boxes: Tensor,
        score: Tensor,
        found_label: Tensor,
        true_boxes: Tensor,
        true_label: Tensor,
        true_crowd: Tensor,
        index: Tensor,
    ) -> None:
        """Add pictures.

        Args:
            found_boxes: (B, M, 4).
            score: (B, M).
            found_label: (B, M); -1 is padding.
            true_boxes: (B, N, 4).
            true_label: (B, N); -1 is padding.
            true_crowd: (B, N), 1: a found box inside of this box is neither right nor wrong.
            index: (B,) number of each picture. Equal scores are ranked in this order.
        """
        self.found.append(torch.cat([found_boxes, score[..., None], found_label[..., None]], -1).float())
        self.true.append(torch.cat([true_boxes, true_crowd[..., None], true_label[..., None]], -1).float())
        self.index.append(index)

    def compute(self) -> dict[str, Tensor]:
        index, order = dim_zero_cat(self.index).sort()
        found, true = (dim_zero_cat(each)[order].cpu().double().numpy() for each in (self.found, self.true))
        values = average_precision(found, true, self.class_names, self.is_short)
        return {name: torch.tensor(value, device=index.device) for name, value in values.items()}


def average_precision(
    found: np.ndarray, true: np.ndarray, class_names: list[str], is_short: bool = False
) -> dict[str, float]:
    """The values by name.

    Args:
        found: (P, M, 6) edges, score and class of the found boxes of each picture.
        true: (P, N, 6) edges, crowd and class of the true boxes.
        class_names: the names of the classes.
        is_short: `map` and `map_50` only.
    """
    every = true[(true[..., 5] >= 0) & (true[..., 4] == 0)]
    if not len(every):
        return {"map": 0.0, "map_50": 0.0}
    area = (every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1])
    precision = precisions(found, true, len(class_names), None if is_short else np.quantile(area, [1 / 3, 2 / 3]))
    values = {"map": mean(precision[..., 0]), "map_50": mean(precision[0, ..., 0])}
    if is_short:
        return values
    values["map_75"] = mean(precision[5, ..., 0])
    values |= {f"map_{size}": mean(precision[..., i]) for i, size in enumerate(SIZES, 1)}
    values |= {f"ap/{name}": mean(precision[:, :, i, 0]) for i, name in enumerate(class_names)}
    return {name: value for name, value in values.items() if value >= 0}


def mean(precision: np.ndarray) -> float:
    """The mean of the values that are not -1; -1: there are none."""
    values = precision[precision > -1]
    return float(values.mean()) if values.size else -1.0


def precisions(found: np.ndarray, true: np.ndarray, num_classes: int, limits: np.ndarray | None = None) -> np.ndarray:
    """(10 IoUs, 101 recalls, K classes, 1 or 4 sizes) interpolated precision; -1: there is no true box.

    Args:
        found: as in `average_precision`.
        true: as in `average_precision`.
        num_classes: the number of classes.
        limits: the two areas between small, medium and large; None: all sizes together.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UserError(
            "error: average precision needs faster-coco-eval: pip install 'lab-template[detection]'"
        ) from error
    head: dict[str, Any] = {
        "images": [{"id": i + 1} for i in range(len(true))],
        "categories": [{"id": i + 1} for i in range(num_classes)],
        "info": {},
    }
    truth, result = COCO(), COCO()
    with _no_collection():
        truth.dataset = head | {"annotations": list(_annotations(true, "iscrowd"))}
        result.dataset = head | {"annotations": list(_annotations(found, "score"))}
        truth.createIndex()
        result.createIndex()
        evaluation = COCOeval_faster(truth, result, "bbox", print_function=lambda *_: None)
        ranges = [[0, 1e10]] + ([] if limits is None else [[0, limits[0]], [limits[0], limits[1]], [limits[1], 1e10]])
        evaluation.params.areaRng = ranges
        evaluation.params.areaRngLbl = ["all", *SIZES][: len(ranges)]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision: np.ndarray = evaluation.eval["precision"][..., 0]
    return precision


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off. It would search the many dictionaries again and again: half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _annotations(boxes: np.ndarray, key: str) -> Any:
    """Yield the boxes of all pictures as COCO has them. Column 4 is the value of `key`."""
    picture, place = np.nonzero(boxes[..., 5] >= 0)
    rows = boxes[picture, place]
    rows[:, 2:4] -= rows[:, :2]
    for number, (image, (x, y, w, h, value, kind)) in enumerate(zip(picture.tolist(), rows.tolist(), strict=True), 1):
        yield {
            "id": number, "image_id": image + 1, "category_id": int(kind) + 1, "bbox": [x, y, w, h], "area": w * h,
            "iscrowd": 0, key: int(value) if key == "iscrowd" else value,
        }  # fmt: skip
