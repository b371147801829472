"""Figures of object detection: pictures with boxes, precision–recall curves, kinds of errors, and confusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_iou

from lab.engine.display import drawn, printable
from lab.figures.page import BLUE, CYCLE, page

NUM_SHOWN, COLUMNS = 12, 4
MOST_NAMES, MOST_LINES = 25, 8
RIGHT, NEAR = 0.5, 0.1  # IoU of a right box, and of a badly placed one (Bolya et al. 2020)
KINDS = {
    "class": "right place, wrong class",
    "place": "right class, IoU 0.1 to 0.5",
    "both": "wrong class, IoU 0.1 to 0.5",
    "twice": "object found twice",
    "background": "no object there",
    "missed": "object missed",
}
Boxes = tuple[Tensor, Tensor]  # (B, N, 4) boxes in pixels of the picture, and (B, N) classes; -1 is padding


def detection(outputs: dict[str, Tensor], names: Sequence[str], threshold: float, samples: Any) -> dict[str, Any]:
    """All figures of a split.

    Args:
        outputs: the outputs of `lab.tasks.detection.Detection` for all pictures; and `ratio` (P, 2), a length in the
            letterboxed picture by the same length in the original.
        names: the names of the classes.
        threshold: the score from which a found box counts, except in the curves.
        samples: `lab.data.views.ShownSamples`: gives the pictures of some rows.
    """
    arrays = {name: rows.numpy() for name, rows in outputs.items()}
    names = list(map(printable, names))
    kinds, confused = errors(arrays, len(names), threshold)
    return {
        "worst": worst(arrays, kinds, threshold, samples),
        "errors": bars(kinds, threshold),
        "confusion": confusion(confused, names),
        "curves": curves(arrays, names),
    }


def pictures(image: Tensor, captions: Sequence[str], title: str, layers: Sequence[Boxes]) -> Figure:
    """(B, C, H, W) pictures in [0, 1] with boxes: the first layer is dotted, the second has lines.

    The colour of a box is that of its class.
    """
    num = min(len(image), NUM_SHOWN)
    rows = max(1, -(-num // COLUMNS))
    figure, axes = page((11, 0.5 + 2.9 * rows), title, (0.1, 0.05, 0.1, 0.7), nrows=rows, ncols=COLUMNS, squeeze=False)
    shown = image[:num].clamp(0, 1).float().cpu().numpy().transpose(0, 2, 3, 1)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i >= num:
            continue
        axis.imshow(shown[i].squeeze(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(drawn(captions[i]), fontsize=7, pad=2)
        for style, (boxes, label) in zip((":", "-"), layers, strict=False):
            for (x1, y1, x2, y2), kind in zip(boxes[i].tolist(), label[i].tolist(), strict=True):
                if kind >= 0:
                    place, colour = (x1 - 0.5, y1 - 0.5), CYCLE[kind % len(CYCLE)]  # imshow has pixel centres
                    axis.add_patch(Rectangle(place, x2 - x1, y2 - y1, fill=False, ec="white", lw=2.2, alpha=0.7))
                    axis.add_patch(Rectangle(place, x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.2, ls=style))
    return figure


def errors(arrays: dict[str, np.ndarray], num_classes: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Each found box and each missed object is right or has one kind of error (Bolya et al. 2020, section 2).

    Returns:
        (P, 6) int, how often each of `KINDS` is in each picture; and (K + 1, K + 1) int, true class by found class, the
        last is background.
    """
    kinds = np.zeros((len(arrays["score"]), len(KINDS)), int)
    confused = np.zeros((num_classes + 1, num_classes + 1), int)
    for i in range(len(kinds)):
        real = arrays["true_label"][i] >= 0
        crowd = arrays["true_crowd"][i][real] == 1
        kept = (arrays["found_label"][i] >= 0) & (arrays["score"][i] >= threshold)
        boxes, label = arrays["found_boxes"][i][kept], arrays["found_label"][i][kept]
        iou, true = overlap_of(boxes, arrays["true_boxes"][i][real]), arrays["true_label"][i][real]
        iou = np.pad(iou, ((0, 0), (0, 1)))  # a last column for no object
        true = np.append(true, num_classes)
        _of_picture(iou, label, true, np.append(crowd, True), kinds[i], confused)
    return kinds, confused


def _of_picture(
    iou: np.ndarray, label: np.ndarray, true: np.ndarray, crowd: np.ndarray, kinds: np.ndarray, confused: np.ndarray
) -> None:
    """Count the errors of one picture. The last column is no object."""
    taken, touched = np.zeros(len(true), bool), crowd.copy()
    for overlap, kind in zip(iou, label, strict=True):
        own = overlap * (true == kind)
        best, mine = overlap.argmax(), own.argmax()
        if crowd[best] and overlap[best] >= RIGHT:
            continue
        if own[mine] >= RIGHT and not taken[mine]:
            taken[mine] = touched[mine] = True
            confused[kind, kind] += 1
            continue
        if own[mine] >= RIGHT:
            error, hit = "twice", None
        elif overlap[best] >= RIGHT:
            error, hit = "class", best
            confused[true[best], kind] += 1
        elif own[mine] >= NEAR:
            error, hit = "place", mine
        else:
            error, hit = ("both", None) if overlap[best] >= NEAR else ("background", None)
        if error != "class":
            confused[-1, kind] += 1
        if hit is not None:
            touched[hit] = True
        kinds[list(KINDS).index(error)] += 1
    kinds[-1] += (~touched).sum()
    np.add.at(confused, (true[~touched], -1), 1)


def overlap_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) boxes -> (N, M) intersection over union."""
    iou: np.ndarray = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return iou


def worst(arrays: dict[str, np.ndarray], kinds: np.ndarray, threshold: float, samples: Any) -> Figure:
    """The pictures with the most errors: truth is dotted, found boxes have lines."""
    order = np.argsort(-kinds.sum(1), kind="stable")[:NUM_SHOWN]
    batch = samples[torch.from_numpy(order)]
    captions = [
        ", ".join(f"{number} {kind}" for kind, number in zip(KINDS, kinds[i], strict=True) if number) or "no error"
        for i in order
    ]
    shown = arrays["score"][order] >= threshold
    found = np.where(shown, arrays["found_label"][order], -1)
    ratio = np.tile(arrays["ratio"][order], 2)[:, None]
    layers = [
        (torch.from_numpy(arrays["true_boxes"][order] * ratio), torch.from_numpy(arrays["true_label"][order])),
        (torch.from_numpy(arrays["found_boxes"][order] * ratio), torch.from_numpy(found)),
    ]
    title = f"pictures with the most errors; dotted: truth, lines: found with a score of {threshold:g} or more"
    return pictures(batch["image"] / 255, captions, title, layers)


def bars(kinds: np.ndarray, threshold: float) -> Figure:
    total = kinds.sum(0)
    title = f"{total.sum()} errors in {len(kinds)} pictures, of boxes with a score of {threshold:g} or more"
    figure, axis = page((7, 3.4), title, (2.9, 0.5, 0.4, 0.5))
    drawn_bars = axis.barh(list(KINDS.values())[::-1], total[::-1], color=BLUE)
    axis.bar_label(drawn_bars, padding=3)
    axis.margins(x=0.12)
    axis.set(xlabel="errors")
    return figure


def confusion(count: np.ndarray, names: Sequence[str]) -> Figure:
    """True classes are rows, found classes columns; the last of each is background."""
    every = [*names, "(none)"]
    side = min(3 + 0.4 * len(every), 9)
    figure, axis = page((side + 2, side + 1), "true and found classes, IoU 0.5", (1.4, 1.2, 0.3, 0.5))
    axis.imshow(np.log1p(count), cmap="Blues")
    axis.set(xlabel="found", ylabel="true")
    if len(every) <= MOST_NAMES:
        axis.set_xticks(range(len(every)), [*map(drawn, every)], rotation=45, ha="right")
        axis.set_yticks(range(len(every)), [*map(drawn, every)])
        half = np.log1p(count).max() / 2
        for row, column in np.argwhere(count):
            colour = "white" if np.log1p(count[row, column]) > half else "black"
            axis.text(column, row, count[row, column], ha="center", va="center", color=colour, fontsize=8)
    return figure


def curves(arrays: dict[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Precision over recall at IoU 0.5; with many classes, the worst."""
    found = [precision_recall(arrays, kind) for kind in range(len(names))]
    area = [float(np.trapezoid(p, r)) if len(r) else 0.0 for r, p in found]
    order = [i for i in np.argsort(area) if len(found[i][0])][:MOST_LINES]
    more = f"; the {len(order)} worst of {len(names)}" if len(order) < len(names) else ""
    figure, axis = page((7, 5), f"precision and recall at IoU 0.5{more}", (0.7, 0.6, 0.2, 0.5))
    for i, kind in enumerate(order):
        recall, precision = found[kind]
        axis.plot(recall, precision, color=CYCLE[i % len(CYCLE)], label=drawn(names[kind]))
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if order:
        axis.legend(fontsize=8, loc="lower left")
    return figure


def precision_recall(arrays: dict[str, np.ndarray], kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of a class, for falling thresholds of the score. Crowds are left out."""
    rows, total = [], 0
    for i in range(len(arrays["score"])):
        real = (arrays["true_label"][i] == kind) & (arrays["true_crowd"][i] == 0)
        mine = arrays["found_label"][i] == kind
        iou = overlap_of(arrays["found_boxes"][i][mine], arrays["true_boxes"][i][real])
        free = np.ones(real.sum(), bool)
        total += real.sum()
        for score, overlap in zip(arrays["score"][i][mine], iou, strict=True):
            best = (overlap * free).argmax() if len(free) else 0
            hit = bool(len(free)) and (overlap * free)[best] >= RIGHT
            if hit:
                free[best] = False
            rows.append((score, hit))
    rows.sort(key=lambda row: -row[0])
    right = np.cumsum([hit for _, hit in rows])
    return (right / total, right / np.arange(1, len(rows) + 1)) if total and rows else (np.array([]), np.array([]))
