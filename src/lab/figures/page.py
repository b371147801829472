"""Shared code of all figures. The colours are safe for colour-blind readers (Okabe and Ito 2008)."""

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from lab.engine.display import drawn, say

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
CYCLE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
# the default font of matplotlib has no Chinese, Japanese or Korean: the first installed font of these is added
CJK = (
    "Noto Sans CJK", "Noto Serif CJK", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback", "Hiragino", "PingFang",
    "Yu Gothic", "Microsoft YaHei", "SimHei", "Malgun Gothic", "IPAGothic", "NanumGothic", "Unifont",
)  # fmt: skip
installed = {font.name for font in fontManager.ttflist}
fallback = [name for start in CJK for name in sorted(installed) if name.startswith(start)]
matplotlib.rcParams["font.family"] = ["sans-serif", *fallback[:1]]


@dataclass
class Heard:
    """A figure with sounds.

    Args:
        figure: what is seen.
        sounds: captions, each with the content of a WAV file.
    """

    figure: Figure
    sounds: Sequence[tuple[str, bytes]]


def page(size: tuple[float, float], title: str, margins: tuple[float, float, float, float], **kwargs: Any) -> Any:
    """A figure and its axes.

    It does not use pyplot, which keeps every figure until it is closed, or a layout engine, which draws twice.

    Args:
        size: width and height, in inches.
        title: the title of the figure.
        margins: left, bottom, right and top, in inches.
        kwargs: arguments of `Figure.subplots`.
    """
    width, height = size
    figure = Figure(size, dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    left, bottom, right, top = margins
    edges = {"left": left / width, "bottom": bottom / height, "right": 1 - right / width, "top": 1 - top / height}
    axes = figure.subplots(gridspec_kw=edges | kwargs.pop("gridspec_kw", {}), **kwargs)
    figure.suptitle(drawn(title), y=1 - 0.12 / height, va="top", fontsize=11)
    return figure, axes


def save(figure: Figure, path: Path, **kwargs: Any) -> None:
    """Write a figure to a file. Warn once of letters that no installed font has."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, **kwargs)
    boxes = {chr(int(number)) for each in caught for number in re.findall(r"Glyph (\d+) ", str(each.message))}
    if boxes - told:
        some = "".join(sorted(boxes)[:10])
        say(
            f"warning: no installed font has {some}: figures show boxes. Install a font such as Noto Sans CJK.",
            file=sys.stderr,
        )
    told.update(boxes)


told: set[str] = set()  # letters without a font, already warned of


def axes_of_curves(name: str) -> Any:
    """A figure of a metric over the epochs, and its axes."""
    figure, axis = page((5, 3.2), name, (0.6, 0.55, 0.2, 0.4))
    axis.set(xlabel="epoch")
    axis.grid(alpha=0.3)
    return figure, axis
