from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from lab.engine.display import drawn
from lab.figures.page import page

INCH = 0.22  # size of a token
MOST_TOKENS = 40  # of a text


def attention(weights: Sequence[Tensor], sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Figure:
    """Attention weights of several pairs: target tokens are rows, source tokens are columns.

    Args:
        weights: (T, S) in [0, 1] for each pair.
        sources: the S tokens of each source.
        targets: the T tokens of each target.
    """
    sources, targets = ([texts[:MOST_TOKENS] for texts in side] for side in (sources, targets))
    rows, columns = -(-len(weights) // 2), min(2, len(weights))
    num_rows, num_columns = max(map(len, targets)), max(map(len, sources))
    text = 0.2 + 0.075 * max(len(token) for texts in (*sources, *targets) for token in texts)  # inches
    tall, wide = num_rows * INCH, num_columns * INCH
    size = (columns * (text + wide) + 0.3, rows * (text + tall) + 0.5)
    grid = {"wspace": text / wide, "hspace": text / tall}
    figure, axes = page(size, "attention: rows are target tokens, columns source tokens", (text, 0.1, 0.3, text + 0.4),
                        nrows=rows, ncols=columns, squeeze=False, gridspec_kw=grid)  # fmt: skip
    for axis in axes.flat:
        axis.set(xlim=(-0.5, num_columns - 0.5), ylim=(num_rows - 0.5, -0.5), frame_on=False, xticks=[], yticks=[])
    for axis, pair, source, target in zip(axes.flat, weights, sources, targets, strict=False):
        limits = (-0.5, len(source) - 0.5, len(target) - 0.5, -0.5)
        shown = pair[: len(target), : len(source)].numpy()
        axis.imshow(shown, cmap="Blues", vmin=0, vmax=1, extent=limits, aspect="auto")
        axis.set(xlim=(-0.5, num_columns - 0.5), ylim=(num_rows - 0.5, -0.5))
        axis.set_xticks(range(len(source)), [*map(drawn, source)], rotation=90, fontsize=8)
        axis.set_yticks(range(len(target)), [*map(drawn, target)], fontsize=8)
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
    return figure
