"""What the searches found: the suggestion, the pictures, the tables."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch.nn.functional import avg_pool1d

from lab.errors import RunError
from lab.tuning.finders import Trial

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"  # told apart by all eyes (Okabe & Ito 2008)


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean over some tenth of the steps around each, twice; a loss that explodes counts as one and a half times
    the first ones.
    """
    loss = torch.tensor(losses, dtype=torch.float64)
    loss = loss.nan_to_num(torch.inf).clamp(max=1.5 * loss[:5].mean())[None]
    window = len(losses) // 20 * 2 + 1
    for _ in range(2):
        loss = avg_pool1d(loss, window, stride=1, padding=window // 2, count_include_pad=False)
    return loss[0].tolist()


def steepest(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The learning rate, before the lowest loss, at which the smooth loss falls fastest over the rate's logarithm.

    Raises:
        RunError: it does not fall.
    """
    loss = torch.tensor(smooth(losses))
    slope = torch.gradient(loss, spacing=(torch.tensor(lrs, dtype=torch.float64).log(),))[0]
    lowest = int(loss.argmin())
    if len(lrs) < 10 or loss[lowest] > 0.95 * loss[0]:
        raise RunError(
            f"error: lr: between {lrs[0]:.1g} and {lrs[-1]:.1g} the loss does not fall by a twentieth: {loss[0]:.3g} at"
            f" first, {loss[lowest]:.3g} at best. Try other lr.min and lr.max, or more lr.steps."
        )
    return lrs[int(slope[: lowest + 1].argmin())]


def draw_lr(path: Path, lrs: Sequence[float], losses: Sequence[float], suggestion: float, now: float | None) -> None:
    figure, axes = _axes("learning rate", "training loss of a batch")
    curve = smooth(losses)
    axes.plot(lrs, losses, ".", color=GREY, alpha=0.6, label="each step")
    axes.plot(lrs, curve, color=BLUE, linewidth=2.5, label="smooth")
    at = curve[lrs.index(suggestion)]
    axes.plot(suggestion, at, "o", color=ORANGE, markersize=10, label=f"falls fastest: {suggestion:.2g}")
    if now and lrs[0] <= now <= lrs[-1]:
        axes.axvline(now, color=GREY, linestyle="--", label=f"set now: {now:.2g}")
    low, high = min(curve), max(curve)
    axes.set(xscale="log", ylim=(max(0.0, low - 0.3 * (high - low)), high + 0.2 * (high - low)))
    axes.legend(loc="lower left")
    figure.savefig(path)


def draw_sizes(path: Path, trials: Sequence[Trial], largest: Trial, fastest: Trial) -> None:
    figure, axes = _axes("batch size", "samples per second, in training")
    fits = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.batch_size)
    axes.plot([t.batch_size for t in fits], [t.speed for t in fits], "o-", color=BLUE, linewidth=2.5)
    axes.plot(fastest.batch_size, fastest.speed, "^", color=BLUE, markersize=12, label=f"fastest: {fastest.batch_size}")
    axes.plot(largest.batch_size, largest.speed, "o", color=ORANGE, markersize=10, label=f"largest: {largest.batch_size}")
    if out := [trial.batch_size for trial in trials if not trial.fits]:
        axes.axvline(min(out), color=GREY, linestyle="--", label=f"out of memory: {min(out)}")
    axes.set(xscale="log", ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend(loc="lower right")
    figure.savefig(path)


def write(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
