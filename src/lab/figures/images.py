from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lab.engine.display import drawn
from lab.figures.page import page


def images(image: Tensor, titles: Sequence[str], title: str, columns: int = 8) -> Figure:
    """A grid of (N, C, H, W) images in [0, 1], each with a title of one or two lines."""
    num, channels, height, width = image.shape
    columns = min(columns, num)
    rows, lines = -(-num // columns), max(text.count("\n") + 1 for text in titles)
    cell_h, cell_w = 1.2 + 0.17 * lines, 1.4  # inches
    gap_y, gap_x = round(height * (cell_h / 1.15 - 1)), round(width * (cell_w / 1.15 - 1))
    sheet = np.ones((rows * (height + gap_y), columns * (width + gap_x), channels), np.float32)
    size = (columns * cell_w + 0.2, rows * cell_h + 0.5)
    figure, axis = page(size, title, (0.1, 0.05, 0.1, 0.45))
    for i, (picture, text) in enumerate(zip(image.clamp(0, 1).float().cpu().numpy(), titles, strict=True)):
        y, x = i // columns * (height + gap_y) + gap_y, i % columns * (width + gap_x) + gap_x // 2
        sheet[y : y + height, x : x + width] = picture.transpose(1, 2, 0)
        axis.text(x + width / 2, y - gap_y * 0.1, drawn(text), ha="center", va="bottom", fontsize=8)
    axis.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axis.axis("off")
    return figure
