"""Attributions as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from lab.engine.display import drawn

BLUE, RED = "#2166ac", "#b2182b"  # which differ for every kind of colour blindness
COLOURS = LinearSegmentedColormap.from_list("against and for", [BLUE, "white", RED])
NUM_ROWS = 10  # one below the other; more go beside them
CELL, GAP, WORDS = 0.95, 0.06, 1.3  # inches: of a picture, between two, of a row's caption
TOP, BOTTOM, SIDE = 0.75, 0.75, 0.15


@dataclass
class Row:
    """A sample's picture (C, H, W) of 0 to 255, an attribution (H, W) for each method, and what is said of it."""

    pixels: Tensor
    attributions: Sequence[Tensor]
    said: str
    more: str


def overlay(pixels: Tensor, attribution: Tensor) -> np.ndarray:
    """(C, H, W) of 0 to 255 in pale grey, coloured by an attribution (H, W): (H, W, 3) of 0 to 1.

    Full colour is the attribution's own 99th percentile.
    """
    most = attribution.abs().float().flatten().cpu().quantile(0.99)
    share = (attribution.float().cpu() / most.clamp(min=1e-30)).clamp(-1, 1).numpy()
    grey = (0.7 + 0.3 * pixels.float().mean(0) / 255).cpu().numpy()[..., None]
    colour, strength = COLOURS(np.where(share < 0, 0.0, 1.0))[..., :3], np.abs(share)[..., None]
    return (1 - strength) * grey + strength * colour


def figure(title: str, columns: Sequence[str], rows: Sequence[Row]) -> Figure:
    """A row a sample: caption, picture, and an overlay for each of the `columns`; one legend below."""
    num_lines, num_blocks = min(len(rows), NUM_ROWS), -(-len(rows) // NUM_ROWS)
    block = WORDS + (len(columns) + 1) * (CELL + GAP)
    width = max(num_blocks * block + 2 * SIDE, 5.4)
    height = TOP + num_lines * (CELL + GAP) + BOTTOM
    sheet = Figure((width, height), dpi=150)
    title = drawn(shortened(title, int(10.5 * (width - 2 * SIDE))))
    sheet.text(SIDE / width, 1 - 0.3 / height, title, fontsize=10, weight="bold", va="center")
    for i, row in enumerate(rows):
        line, left = i % NUM_ROWS, SIDE + i // NUM_ROWS * block
        bottom = height - TOP - line * (CELL + GAP) - CELL
        place = ((left + WORDS - 0.1) / width, (bottom + 0.55 * CELL) / height)
        said, more = drawn(shortened(row.said, 15)), drawn(shortened(row.more, 20))
        sheet.text(*place, said, ha="right", va="bottom", fontsize=10, weight="bold")
        sheet.text(*place, more, ha="right", va="top", fontsize=8.5, color="#333333")
        pictures = [_plain(row.pixels), *(overlay(row.pixels, attribution) for attribution in row.attributions)]
        for j, (picture, name) in enumerate(zip(pictures, ["input", *columns], strict=True)):
            x = left + WORDS + j * (CELL + GAP)
            axes = sheet.add_axes((x / width, bottom / height, CELL / width, CELL / height))
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(name, fontsize=8.5, pad=3)
    _legend(sheet, width, height)
    return sheet


def shortened(text: str, most: int) -> str:
    """Each line, with … for what is more than so many characters."""
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in text.split("\n"))


def _plain(pixels: Tensor) -> np.ndarray:
    image = pixels.permute(1, 2, 0).cpu().numpy()
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _legend(sheet: Figure, width: float, height: float) -> None:
    axes = sheet.add_axes(((width - 2.4) / 2 / width, 0.48 / height, 2.4 / width, 0.12 / height))
    bar = sheet.colorbar(ScalarMappable(Normalize(-1, 1), COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["against the answer", "neutral", "for the answer"], fontsize=8.5)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, pad=3)
