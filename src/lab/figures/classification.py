"""Figures of the predictions of a classifier, as functions of probabilities, labels and names."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

from lab.engine.display import drawn, printable
from lab.engine.markdown import table
from lab.figures.page import BLUE, CYCLE, GREY, ORANGE, page

GALLERIES = {"mistakes": "the surest mistakes: label → prediction", "least_sure": "right, but the least sure"}
NUM_SHOWN = 32  # samples
MOST_NAMES = 30  # classes; an axis has no names if there are more
MOST_LINES = 10  # classes with a curve


def classification(
    probability: Tensor, label: Tensor, names: Sequence[str], show: Callable[[Tensor, Sequence[str], str], Any]
) -> dict[str, Figure | str]:
    """All figures of a split.

    Args:
        probability: (N, K) predicted probabilities.
        label: (N,) true classes.
        names: the names of the K classes.
        show: a function of (M,) rows, M captions and a title that returns a figure of these samples.
    """
    sure, prediction = probability.max(-1)
    names = list(map(printable, names))  # a line break would add a line to a caption
    found: dict[str, Any] = {
        "confusion": confusion(label, prediction, names),
        "classes": classes(label, prediction, names),
        "reliability": reliability(probability, label),
        "curves": curves(probability, label, names),
    }
    order = sure.argsort(descending=True)
    right = (prediction == label)[order]
    for name, which in {"mistakes": order[~right], "least_sure": order[right].flip(0)}.items():
        which = which[:NUM_SHOWN]
        rows = zip(*(values[which].tolist() for values in (label, prediction, sure)), strict=True)
        captions = [f"{names[true]}\n→ {names[predicted]} {p:.2f}" for true, predicted, p in rows]
        found[name] = show(which, captions, GALLERIES[name]) if captions else None
    return {name: figure for name, figure in found.items() if figure is not None}


def confusion(label: Tensor, prediction: Tensor, names: Sequence[str]) -> Figure:
    """The share of the samples of each label (a row) with each prediction (a column); with counts if they fit."""
    num = len(names)
    count = np.bincount((label * num + prediction).numpy(), minlength=num * num).reshape(num, num)
    share = count / np.maximum(count.sum(1, keepdims=True), 1)
    side = min(3 + 0.4 * num, 9)
    longest = max(map(len, names)) if num <= MOST_NAMES else 3
    text = 0.4 + 0.085 * min(longest, 20)  # inches
    title = f"{len(label)} samples, {count.trace() / max(1, count.sum()):.1%} right"
    margins = (text + 0.2, 0.75 * text + 0.3, 0.3, 0.4 if num <= MOST_NAMES else 1.2)
    figure, axis = page((side + text + 1.2, side + text), title, margins)
    shown = axis.imshow(share, cmap="viridis", norm=PowerNorm(0.5, 0, 1))  # makes rare mistakes visible
    figure.colorbar(shown, label="share of the label's samples", shrink=0.8)
    axis.set(xlabel="prediction", ylabel="label")
    if num <= MOST_NAMES:
        slant = {"rotation": 45, "ha": "right"} if longest > 2 else {}
        axis.set_xticks(range(num), [*map(drawn, names)], **slant)
        axis.set_yticks(range(num), [*map(drawn, names)])
        for row, column in np.argwhere(count):
            colour = "black" if share[row, column] > 0.4 else "white"
            axis.text(column, row, count[row, column], ha="center", va="center", color=colour, fontsize=8)
    else:
        share = share.copy()
        np.fill_diagonal(share, 0)
        worst = [np.unravel_index(i, share.shape) for i in share.ravel().argsort()[::-1][:5]]
        lines = "\n".join(f"{share[r, c]:.0%} of {names[r]} taken for {names[c]}" for r, c in worst if share[r, c])
        axis.set_title(drawn(lines), fontsize=9, loc="left")
    return figure


def classes(label: Tensor, prediction: Tensor, names: Sequence[str]) -> str:
    """A Markdown table of precision, recall, F1 and number of samples of each class, the worst F1 first."""
    num = len(names)
    right, true, found = (torch.bincount(x, minlength=num) for x in (label[label == prediction], label, prediction))
    precision, recall = right / found.clamp(min=1), right / true.clamp(min=1)
    f1 = 2 * right / (true + found).clamp(min=1)
    columns = (values.tolist() for values in (f1, precision, recall, true))
    rows = sorted(zip(*columns, names, strict=True), key=lambda row: row[0])
    cells = [[printable(name), f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", str(n)] for f, p, r, n, name in rows]
    return table(["class", "precision", "recall", "F1", "samples"], cells)


def reliability(probability: Tensor, label: Tensor, num_bins: int = 10) -> Figure:
    """A reliability diagram, with the expected calibration error (Naeini et al. 2015).

    Predictions with probability 0.8 should be right in 80 % of the cases.

    Args:
        probability: (N, K) predicted probabilities.
        label: (N,) true classes.
        num_bins: number of bins of equal width.
    """
    sure, prediction = (x.numpy() for x in probability.max(-1))
    right = prediction == label.numpy()
    bins = np.minimum((sure * num_bins).astype(int), num_bins - 1)
    num = np.bincount(bins, minlength=num_bins)
    accuracy, confidence = (np.bincount(bins, x, num_bins) / np.maximum(num, 1) for x in (right, sure))
    error = (num * abs(accuracy - confidence)).sum() / len(label)
    title, margins = f"expected calibration error {error:.3f}", (0.7, 0.6, 0.2, 0.5)
    figure, (above, below) = page((5, 6), title, margins, nrows=2, sharex=True, height_ratios=[3, 1])
    middle = (np.arange(num_bins) + 0.5) / num_bins
    above.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
    above.bar(middle[num > 0], accuracy[num > 0], 0.9 / num_bins, color=BLUE, label="accuracy")
    above.plot(confidence[num > 0], accuracy[num > 0], "o", color=ORANGE, label="accuracy at the mean probability")
    above.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    above.legend(loc="lower right", fontsize=8)
    below.bar(middle, num, 0.9 / num_bins, color=GREY)
    below.set(xlabel="probability of the predicted class", ylabel="samples", yscale="log", ylim=(0.7, None))
    below.yaxis.set_major_formatter("{x:g}")  # 10, without the powers that matplotlib typesets as formulas
    below.yaxis.set_minor_formatter(NullFormatter())
    return figure


def curves(probability: Tensor, label: Tensor, names: Sequence[str]) -> Figure | None:
    """ROC and precision–recall curves of each class against the others; of many classes, the worst.

    None if no class has both positive and negative samples.
    """
    found = []
    for k in range(1 if len(names) == 2 else 0, len(names)):
        is_it = (label == k).long()
        if 0 < is_it.sum() < len(is_it):
            false, true, _ = binary_roc(probability[:, k], is_it)
            precision, recall, _ = binary_precision_recall_curve(probability[:, k], is_it)
            ap = binary_average_precision(probability[:, k], is_it).item()
            found.append((torch.trapezoid(true, false).item(), ap, names[k], false, true, precision, recall))
    if not found:
        return None
    worst = sorted(found, key=lambda each: each[1])[:MOST_LINES]
    which = "" if len(worst) == len(found) else f"; the {len(worst)} worst of {len(found)}"
    mean = np.mean([each[:2] for each in found], 0)
    title = f"mean AUC {mean[0]:.4f}, mean average precision {mean[1]:.4f}{which}"
    figure, (left, right) = page((11, 5), title, (0.7, 0.6, 0.2, 0.75), ncols=2)
    for i, (area, ap, name, false, true, precision, recall) in enumerate(worst):
        style = {"color": CYCLE[i % len(CYCLE)], "linestyle": "-" if i < len(CYCLE) else "--"}
        left.plot(false, true, label=drawn(f"{area:.4f} {name}"), **style)
        right.plot(recall, precision, label=drawn(f"{ap:.4f} {name}"), **style)
    left.plot([0, 1], [0, 1], ":", color=GREY)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, with its area")
    right.set(xlabel="recall", ylabel="precision", title="precision–recall, with average precision")
    for axis, place in ((left, "lower right"), (right, "lower left")):
        axis.legend(fontsize=8, loc=place)
    return figure
