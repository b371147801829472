"""Drawing attributions of images over the images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from lab.engine.display import drawn

BLUE, RED = "#2166ac", "#b2182b"  # distinguishable with every kind of colour blindness
COLOURS = LinearSegmentedColormap.from_list("against and for", [BLUE, "white", RED])
NUM_ROWS = 10  # of a block; further examples form another block to the right
CELL, GAP, CAPTION = 0.95, 0.06, 1.3  # inches: the width of an image, between two images, and of a caption
TOP, BOTTOM, SIDE = 0.75, 0.75, 0.15


@dataclass
class Example:
    """An image with its attributions and its caption."""

    pixels: Tensor  # (C, H, W), 0 to 255
    attributions: Sequence[Tensor]  # (H, W) for each method
    prediction: str
    details: str  # the probability, and the file name or the true class


def overlay(pixels: Tensor, attribution: Tensor) -> np.ndarray:
    """Colour a grayscale version of an image by an attribution. The 99th percentile of the attribution is full colour.

    Args:
        pixels: (C, H, W), 0 to 255.
        attribution: (H, W).

    Returns:
        (H, W, 3), 0 to 1.
    """
    most = attribution.abs().float().flatten().cpu().quantile(0.99)
    share = (attribution.float().cpu() / most.clamp(min=1e-30)).clamp(-1, 1).numpy()
    grey = (0.7 + 0.3 * pixels.float().mean(0) / 255).cpu().numpy()[..., None]
    colour, strength = COLOURS(np.where(share < 0, 0.0, 1.0))[..., :3], np.abs(share)[..., None]
    return (1 - strength) * grey + strength * colour


def figure(title: str, columns: Sequence[str], examples: Sequence[Example]) -> Figure:
    """A row for each example: its caption, the image, and an overlay for each of the `columns`; a legend below."""
    num_lines, num_blocks = min(len(examples), NUM_ROWS), -(-len(examples) // NUM_ROWS)
    block = CAPTION + (len(columns) + 1) * (CELL + GAP)
    width = max(num_blocks * block + 2 * SIDE, 5.4)
    height = TOP + num_lines * (CELL + GAP) + BOTTOM
    sheet = Figure((width, height), dpi=150)
    title = drawn(clipped_lines(title, int(10.5 * (width - 2 * SIDE))))
    sheet.text(SIDE / width, 1 - 0.3 / height, title, fontsize=10, weight="bold", va="center")
    for i, example in enumerate(examples):
        line, left = i % NUM_ROWS, SIDE + i // NUM_ROWS * block
        bottom = height - TOP - line * (CELL + GAP) - CELL
        position = ((left + CAPTION - 0.1) / width, (bottom + 0.55 * CELL) / height)
        prediction, details = drawn(clipped_lines(example.prediction, 15)), drawn(clipped_lines(example.details, 20))
        sheet.text(*position, prediction, ha="right", va="bottom", fontsize=10, weight="bold")
        sheet.text(*position, details, ha="right", va="top", fontsize=8.5, color="#333333")
        overlays = [overlay(example.pixels, attribution) for attribution in example.attributions]
        pictures = [_rgb(example.pixels), *overlays]
        for j, (picture, name) in enumerate(zip(pictures, ["input", *columns], strict=True)):
            x = left + CAPTION + j * (CELL + GAP)
            axes = sheet.add_axes((x / width, bottom / height, CELL / width, CELL / height))
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(name, fontsize=8.5, pad=3)
    _legend(sheet, width, height)
    return sheet


def clipped_lines(text: str, most: int) -> str:
    """A text whose lines have at most so many characters; longer lines end with …."""
    return "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in text.split("\n"))


def _rgb(pixels: Tensor) -> np.ndarray:
    """(H, W, 3) of (C, H, W) pixels."""
    image = pixels.permute(1, 2, 0).cpu().numpy()
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _legend(sheet: Figure, width: float, height: float) -> None:
    axes = sheet.add_axes(((width - 2.4) / 2 / width, 0.48 / height, 2.4 / width, 0.12 / height))
    bar = sheet.colorbar(ScalarMappable(Normalize(-1, 1), COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([-1, 0, 1], labels=["against the prediction", "neutral", "for the prediction"], fontsize=8.5)
    bar.outline.set_visible(False)
    axes.tick_params(length=0, pad=3)
