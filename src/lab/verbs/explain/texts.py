"""The explainer of texts: which tokens drove a prediction, shown as coloured text.

A method takes a net, (B, T) token ids and the (B,) classes to explain. It returns (B, T): the contribution of each
token to the logit of the class, compared with an unknown token.
"""

import html as escaped
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from matplotlib.figure import Figure
from torch import Tensor, nn

from lab.engine.display import drawn, printable, printable_lines
from lab.features.text import Text
from lab.nets.ngrams import NGramEmbedding
from lab.verbs.explain.base import Explainer
from lab.verbs.explain.group import Group
from lab.verbs.explain.scores import NUM_POINTS, Method

LINE = 100  # characters
FOR, AGAINST = "178, 24, 43", "33, 102, 172"  # red and blue, distinguishable with every kind of colour blindness

STYLE = """
body { font: 16px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light }
h2 { font-size: 1rem; margin: 1.5rem 0 0 } td { overflow-wrap: anywhere } span { border-radius: .2em }
th { font-weight: normal; text-align: left; padding-right: 1rem; color: #555; white-space: nowrap; vertical-align: top }
"""


Blank = Callable[[Tensor], Tensor]  # token ids -> the ids with which they are compared


def integrated_gradients(blank: Blank, net: nn.Module, token: Tensor, target: Tensor) -> Tensor:
    """Integrated gradients of the embeddings (Sundararajan et al. 2017), on the path from unknown tokens.

    The contribution of an n-gram (`net.ngrams`, `net.linear_ngrams`) is added to its last token.
    """
    layers: list[nn.Module] = [module for module in net.modules() if isinstance(module, NGramEmbedding)]
    layers = layers or [next(module for module in net.modules() if isinstance(module, nn.Embedding))]
    with warnings.catch_warnings(action="ignore"):  # captum warns of layers that feed each other; these do not
        method = LayerIntegratedGradients(net, layers)
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent nets have no gradients in evaluation mode
        attributions = method.attribute(token, blank(token), target=target, n_steps=NUM_POINTS)
    return torch.stack([attribution.sum(-1) for attribution in attributions]).sum(0)


@torch.no_grad()
def occlusion(blank: Blank, net: nn.Module, token: Tensor, target: Tensor) -> Tensor:
    """Occlusion: the drop of the logit when a token is replaced by an unknown token."""
    drops = []
    for row, other, k in zip(token, blank(token), target, strict=True):
        each = torch.where(torch.eye(len(row), dtype=torch.bool, device=row.device), other, row)
        logit = torch.cat([net(part)[:, k] for part in torch.cat([row[None], each]).split(NUM_POINTS)])
        drops.append(logit[0] - logit[1:])
    return torch.stack(drops)


class TextExplainer(Explainer):
    feature: Text

    def methods(self) -> dict[str, Method]:
        """The methods. They never replace padding, start and end tokens."""
        special = torch.tensor(sorted(self.feature.tokens.special))

        def blank(token: Tensor) -> Tensor:
            return token.where(torch.isin(token, special.to(token.device)), self.feature.tokens.unknown)

        return {method.__name__: partial(method, blank) for method in (integrated_gradients, occlusion)}

    @property
    def blank(self) -> int:
        """An unknown token."""
        return self.feature.tokens.unknown

    def html(self, item: np.ndarray, attribution: Tensor) -> str:
        """(T,) token ids as text, coloured by their (T,) attribution; the strongest has full colour."""
        share = (attribution.float().cpu() / attribution.abs().max().clamp(min=1e-30).cpu()).tolist()
        pieces = zip(self.feature.tokens.pieces(item), share, strict=True)
        gap = " " if '"Whitespace"' in self.feature.tokenizer else ""
        return gap.join(
            f'<span style="background: rgba({FOR if s > 0 else AGAINST}, {0.8 * abs(s):.2f})">'
            f"{escaped.escape(printable_lines(text))}</span>"
            for text, s in pieces
        )

    def draw(self, group: Group, maps: Mapping[str, Sequence[Tensor]], choices: Sequence[str], folder: Path) -> Path:
        """Write an HTML page of coloured texts, and the texts of the first method to TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter

        parts, heads = [], []
        for i, item in enumerate(group.items):
            head = f"{choices[int(group.target[i])]} {100 * group.probability[i]:.1f} %"
            if group.label is not None and group.label[i] != group.target[i]:
                head += f", but is {choices[int(group.label[i])]}"
            rows = "".join(
                f"<tr><th>{name.replace('_', ' ')}</th><td>{self.html(item, values[i])}</td></tr>"
                for name, values in maps.items()
            )
            parts.append(f"<h2>{escaped.escape(printable(head))}</h2><table>{rows}</table>")
            heads.append(head)
        path = folder / f"{group.name}.html"
        title = escaped.escape(printable(group.title))
        legend = (
            f'<p><span style="background: rgba({FOR}, .6)">for the prediction</span>'
            f' <span style="background: rgba({AGAINST}, .6)">against it</span></p>'
        )
        html_head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        path.write_text(f"{html_head}<h1>{title}</h1>{legend}{''.join(parts)}\n", encoding="utf-8")
        first_method = next(iter(maps.values()))
        coloured_rows = [
            (self.feature.tokens.pieces(item), values) for item, values in zip(group.items, first_method, strict=True)
        ]
        # matplotlib warns of letters that its font lacks
        with SummaryWriter(str(folder.parent)) as writer, warnings.catch_warnings(action="ignore"):
            writer.add_figure(f"{folder.name}/{group.name}", coloured(group.title, heads, coloured_rows))
        return path


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def coloured(title: str, heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Tensor]]) -> Figure:
    """A figure with the tokens of each row under its head, coloured by their contribution."""
    lines: list[tuple[str, list[tuple[int, str, float]]]] = []
    for head, (pieces, values) in zip(heads, rows, strict=True):
        share = values.float().cpu() / values.abs().max().clamp(min=1e-30).cpu()
        column, line = 0, list[tuple[int, str, float]]()
        lines.append((head, []))
        for piece, s in zip(pieces, share.tolist(), strict=True):
            if column + _width(piece) > LINE:
                lines.append(("", line))
                column, line = 0, []
            line.append((column, piece, s))
            column += _width(piece) + (len(piece) > 1)
        lines.append(("", line))
    figure = Figure((0.085 * LINE + 0.4, 0.24 * len(lines) + 0.6), dpi=110)
    width, height = figure.get_size_inches()
    figure.text(0.2 / width, 1 - 0.3 / height, drawn(title), weight="bold")
    for i, (head, line) in enumerate(lines):
        y = 1 - (0.65 + 0.24 * i) / height
        figure.text(0.2 / width, y, drawn(head), fontsize=8, color="#333333")
        for column, piece, s in line:
            colour = [int(part) / 255 for part in (FOR if s > 0 else AGAINST).split(",")]
            box = {"facecolor": (*colour, 0.8 * abs(s)), "edgecolor": "none", "pad": 1}
            x = (0.2 + 0.085 * column) / width
            figure.text(x, y, drawn(piece), fontsize=10, family="monospace", bbox=box)
    return figure
