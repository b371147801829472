"""The results of `lab tune`: the suggested learning rate, plots and tables."""

import csv
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch.nn.functional import avg_pool1d

from lab.engine.errors import RunError
from lab.figures.page import BLUE, GREY, ORANGE
from lab.verbs.tune.finders import Measurement


def by_step(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The learning rate of each optimizer step, and the mean loss of the batches that are accumulated for it."""
    steps = [(lr, [loss for _, loss in batches]) for lr, batches in groupby(points, key=lambda point: point[0])]
    return [lr for lr, _ in steps], [sum(losses) / len(losses) for _, losses in steps]


def smooth(losses: Sequence[float]) -> list[float]:
    """The moving average over a tenth of the steps, twice. Losses are clipped at 1.5 times the first five's mean."""
    loss = torch.tensor(losses, dtype=torch.float64)
    loss = loss.nan_to_num(torch.inf).clamp(max=1.5 * loss[:5].mean())[None]
    window = len(losses) // 20 * 2 + 1
    for _ in range(2):
        loss = avg_pool1d(loss, window, stride=1, padding=window // 2, count_include_pad=False)
    return loss[0].tolist()


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The geometric mean of two rates: where the smoothed loss falls fastest, and where it is lowest.

    The first is small and safe; the second is the largest that works with a warm-up.

    Raises:
        RunError: the loss does not fall.
    """
    if not all(map(math.isfinite, losses[:5])):
        raise RunError(f"error: lr: the loss is {losses[0]:.3g} at lr={lrs[0]:.1g}, before any training.")
    curve = smooth(losses)
    lowest = min(range(len(curve)), key=curve.__getitem__)
    if curve[lowest] > 0.95 * curve[0]:
        raise RunError(
            f"error: lr: from {lrs[0]:.1g} to {lrs[-1]:.1g} the loss falls by less than 5 %: {curve[0]:.3g} at first,"
            f" {curve[lowest]:.3g} at best. Try another lr.min and lr.max, or more lr.steps."
        )
    slope = torch.gradient(torch.tensor(curve), spacing=(torch.tensor(lrs).log(),))[0]
    return math.sqrt(lrs[lowest] * lrs[int(slope[: lowest + 1].argmin())])


def draw_lr(path: Path, lrs: Sequence[float], losses: Sequence[float], suggestion: float, now: float | None) -> None:
    figure, axes = _axes("learning rate", "training loss of a batch")
    curve = smooth(losses)
    axes.plot(lrs, losses, ".", color=GREY, alpha=0.6, label="each step")
    axes.plot(lrs, curve, color=BLUE, linewidth=2.5, label="smoothed")
    at = curve[min(range(len(lrs)), key=lambda i: abs(math.log(lrs[i] / suggestion)))]
    axes.plot(suggestion, at, "o", color=ORANGE, markersize=10, label=f"suggested: {suggestion:.2g}")
    if now and lrs[0] <= now <= lrs[-1]:
        axes.axvline(now, color=GREY, linestyle="--", label=f"set now: {now:.2g}")
    low, high = min(curve), max(curve)
    axes.set(xscale="log", ylim=(max(0.0, low - 0.3 * (high - low)), high + 0.2 * (high - low)))
    axes.legend(loc="lower left")
    figure.savefig(path)


def draw_sizes(
    path: Path, measurements: Sequence[Measurement], largest: Measurement, fastest: Measurement, too_large: int | None
) -> None:
    """Plot the speed of each batch size. `too_large` is a size that did not fit."""
    figure, axes = _axes("batch size", "samples per second, in training")
    axes.plot([t.batch_size for t in measurements], [t.speed for t in measurements], "o-", color=BLUE, linewidth=2.5)
    for measurement, marker, color, name in ((fastest, "^", BLUE, "fastest"), (largest, "s", ORANGE, "largest")):
        label = f"{name}: {measurement.batch_size}"
        axes.plot(measurement.batch_size, measurement.speed, marker, color=color, markersize=11, label=label)
    if too_large:
        axes.axvline(too_large, color=GREY, linestyle="--", label=f"out of memory: {too_large}")
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    figure.savefig(path)


def write(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def _axes(x: str, y: str) -> tuple[Any, Any]:
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
