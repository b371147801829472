"""Attributions as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = colormaps["RdBu_r"]  # red and blue differ for every kind of colour blindness
RIGHT, WRONG = "#0072b2", "#b34700"  # of captions; so do these
NUM_ROWS = 10  # one below the other; more go beside them
CELL, GAP, WORDS = 0.95, 0.06, 1.3  # inches: of a picture, between two, of a row's caption
TOP, BOTTOM, LEFT, RIGHT_MARGIN = 0.75, 0.75, 0.15, 0.15


@dataclass
class Row:
    """A sample's picture (C, H, W) of 0 to 255, an attribution (H, W) for each method, and what is said of it."""

    pixels: Tensor
    attributions: Sequence[Tensor]
    said: str
    more: str
    right: bool = True


def overlay(pixels: Tensor, attribution: Tensor) -> np.ndarray:
    """(C, H, W) of 0 to 255 in pale grey, coloured by an attribution (H, W): (H, W, 3) of 0 to 1.

    Full colour is the attribution's own 99th percentile.
    """
    most = attribution.abs().float().flatten().quantile(0.99)
    share = (attribution / most.clamp(min=torch.finfo(torch.float32).tiny)).clamp(-1, 1)
    grey = 0.55 + 0.45 * pixels.float().mean(0) / 255
    return COLOURS((share.cpu().numpy() + 1) / 2)[..., :3] * grey.cpu().numpy()[..., None]


def figure(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Figure:
    """A row a sample: caption, picture, and an overlay for each of the `columns`; one legend below."""
    num_lines, num_blocks = min(len(rows), NUM_ROWS), -(-len(rows) // NUM_ROWS)
    block = WORDS + (len(columns) + 1) * (CELL + GAP)
    width = max(LEFT + num_blocks * block + RIGHT_MARGIN, 5.4)
    height = TOP + num_lines * (CELL + GAP) + BOTTOM
    drawn = Figure((width, height), dpi=150)
    drawn.text(LEFT / width, 1 - 0.3 / height, title, fontsize=11, weight="bold", va="center", parse_math=False)
    for i, row in enumerate(rows):
        line, left = i % NUM_ROWS, LEFT + i // NUM_ROWS * block
        bottom = height - TOP - line * (CELL + GAP) - CELL
        colour = RIGHT if row.right else WRONG
        middle = (bottom + CELL / 2) / height
        words = {"x": left / width, "y": middle, "parse_math": False}
        drawn.text(s=shortened(row.said, 15), va="bottom", fontsize=10, weight="bold", color=colour, **words)
        drawn.text(s=shortened(row.more, 20), va="top", fontsize=8.5, color="#333333", **words)
        pictures = [_plain(row.pixels), *(overlay(row.pixels, attribution) for attribution in row.attributions)]
        for j, (picture, name) in enumerate(zip(pictures, ["input", *columns], strict=True)):
            x = left + WORDS + j * (CELL + GAP)
            axes = drawn.add_axes((x / width, bottom / height, CELL / width, CELL / height))
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(name.replace("_", "\n"), fontsize=8.5, pad=3)
    _legend(drawn, width, height)
    return drawn


def shortened(text: str, most: int) -> str:
    """Each line, with … for what is more than so many characters."""
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in text.split("\n"))


def _plain(pixels: Tensor) -> np.ndarray:
    image = pixels.permute(1, 2, 0).cpu().numpy()
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _legend(drawn: Figure, width: float, height: float) -> None:
    axes = drawn.add_axes(((width - 2.4) / 2 / width, 0.48 / height, 2.4 / width, 0.12 / height))
    bar = drawn.colorbar(ScalarMappable(Normalize(-1, 1), COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["speaks against", "neutral", "speaks for the class"], fontsize=8.5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axes.tick_params(length=0, pad=3)
