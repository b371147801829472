"""What the searches found: the suggestion, the pictures, the tables."""

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
from lab.verbs.tune.finders import Trial


def by_step(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The learning rates of the optimizer's steps, and the mean losses of the batches that are gathered for each."""
    steps = [(lr, [loss for _, loss in batches]) for lr, batches in groupby(points, key=lambda point: point[0])]
    return [lr for lr, _ in steps], [sum(losses) / len(losses) for _, losses in steps]


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean over a tenth of the steps around each, twice; at most one and a half times the first ones count."""
    loss = torch.tensor(losses, dtype=torch.float64)
    loss = loss.nan_to_num(torch.inf).clamp(max=1.5 * loss[:5].mean())[None]
    window = len(losses) // 20 * 2 + 1
    for _ in range(2):
        loss = avg_pool1d(loss, window, stride=1, padding=window // 2, count_include_pad=False)
    return loss[0].tolist()


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """A learning rate half-way, in its logarithm, from where the smooth loss falls fastest to where it is lowest.

    The one is small and safe, the other as much as a schedule with a warm-up bears.

    Raises:
        RunError: it does not fall.
    """
    if not all(map(math.isfinite, losses[:5])):
        raise RunError(f"error: lr: the loss is {losses[0]:.3g} at {lrs[0]:.1g}, before anything is learned.")
    curve = smooth(losses)
    lowest = min(range(len(curve)), key=curve.__getitem__)
    if curve[lowest] > 0.95 * curve[0]:
        raise RunError(
            f"error: lr: from {lrs[0]:.1g} to {lrs[-1]:.1g} the loss does not fall by a twentieth: {curve[0]:.3g} at"
            f" first, {curve[lowest]:.3g} at best. Try other lr.min and lr.max, or more lr.steps."
        )
    slope = torch.gradient(torch.tensor(curve), spacing=(torch.tensor(lrs).log(),))[0]
    return math.sqrt(lrs[lowest] * lrs[int(slope[: lowest + 1].argmin())])


def draw_lr(path: Path, lrs: Sequence[float], losses: Sequence[float], suggestion: float, now: float | None) -> None:
    figure, axes = _axes("learning rate", "training loss of a batch")
    curve = smooth(losses)
    axes.plot(lrs, losses, ".", color=GREY, alpha=0.6, label="each step")
    axes.plot(lrs, curve, color=BLUE, linewidth=2.5, label="smooth")
    at = curve[min(range(len(lrs)), key=lambda i: abs(math.log(lrs[i] / suggestion)))]
    axes.plot(suggestion, at, "o", color=ORANGE, markersize=10, label=f"suggested: {suggestion:.2g}")
    if now and lrs[0] <= now <= lrs[-1]:
        axes.axvline(now, color=GREY, linestyle="--", label=f"set now: {now:.2g}")
    low, high = min(curve), max(curve)
    axes.set(xscale="log", ylim=(max(0.0, low - 0.3 * (high - low)), high + 0.2 * (high - low)))
    axes.legend(loc="lower left")
    figure.savefig(path)


def draw_sizes(path: Path, trials: Sequence[Trial], largest: Trial, fastest: Trial, out: int | None) -> None:
    """`trials` by size; `out` is one that did not fit."""
    figure, axes = _axes("batch size", "samples per second, in training")
    axes.plot([t.batch_size for t in trials], [t.speed for t in trials], "o-", color=BLUE, linewidth=2.5)
    for trial, marker, color, name in ((fastest, "^", BLUE, "fastest"), (largest, "s", ORANGE, "largest")):
        label = f"{name}: {trial.batch_size}"
        axes.plot(trial.batch_size, trial.speed, marker, color=color, markersize=11, label=label)
    if out:
        axes.axvline(out, color=GREY, linestyle="--", label=f"out of memory: {out}")
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
