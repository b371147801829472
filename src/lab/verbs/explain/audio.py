"""The explainer of recordings: which parts of the spectrogram drove a prediction.

A method takes the net behind its front end, (B, num_mels, F) normalised log-mel spectrograms and the (B,) classes to
explain. It returns (B, num_mels, F): the contribution of each band at each time to the logit of the class, compared
with the mean of the band.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion
from matplotlib.figure import Figure
from torch import Tensor, nn

from lab.engine.display import drawn, printable
from lab.engine.errors import UserError
from lab.features.audio import Audio, player
from lab.features.image import picture
from lab.figures.page import page, save
from lab.nets.audio import SpectrogramNet
from lab.verbs.explain.base import Explainer
from lab.verbs.explain.group import Group
from lab.verbs.explain.scores import NUM_POINTS, Method

COLOURS = "RdBu_r"  # red speaks for the prediction, blue against it


def integrated_gradients(net: nn.Module, spectrogram: Tensor, target: Tensor) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from the mean of each band."""
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent nets have no gradients in evaluation mode
        return IntegratedGradients(net).attribute(spectrogram, target=target, n_steps=NUM_POINTS)


def occlusion(net: nn.Module, spectrogram: Tensor, target: Tensor) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014): the drop of the logit when 50 ms of an eighth of the bands are replaced."""
    window = max(1, spectrogram.shape[1] // 8), min(5, spectrogram.shape[2])
    step = -(-window[0] // 2), -(-window[1] // 2)
    with torch.no_grad():
        return Occlusion(net).attribute(spectrogram, window, step, target=target, perturbations_per_eval=NUM_POINTS)


class BehindFrontEnd(nn.Module):
    """The part of a net that takes whole spectrograms, without padding."""

    def __init__(self, net: SpectrogramNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, num_mels, F) -> (B, num_classes) logits."""
        return self.net.classify(spectrogram, torch.ones_like(spectrogram[:, :1]))


class AudioExplainer(Explainer):
    feature: Audio

    def methods(self) -> dict[str, Method]:
        return {method.__name__: method for method in (integrated_gradients, occlusion)}

    def split(self, net: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        if not isinstance(net, SpectrogramNet):
            raise UserError("error: explain: only nets with a spectrogram are explained, such as net=audio_cnn.")

        def front_end(waveform: Tensor) -> Tensor:
            length = torch.full(waveform.shape[:1], waveform.shape[1], device=waveform.device)
            with torch.no_grad():
                spectrogram, mask = net.front_end(waveform, length)
            return spectrogram[:, :, : int(mask.sum())]

        return front_end, BehindFrontEnd(net)

    @property
    def blank(self) -> float:
        """The mean of a band over the recording."""
        return 0.0

    def html(self, item: np.ndarray, attribution: Tensor) -> str:
        """A player of the (T,) waveform, and its (num_mels, F) attribution as an image: time to the right."""
        colour = matplotlib.colormaps[COLOURS](coloured(attribution))[::-1, :, :3]
        enlarged = (255 * colour).round().astype(np.uint8).repeat(4, 0).repeat(4, 1)
        alt = f"which frequencies and times speak for and against the prediction, {len(item):,} samples"
        return picture(enlarged, html.escape(alt)) + player(self.feature.file(self.feature.sample(item), {})[1])

    def draw(self, group: Group, maps: Mapping[str, Sequence[Tensor]], choices: Sequence[str], folder: Path) -> Path:
        """Draw a PNG file, and the same image in TensorBoard; and write the recordings as WAV files."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and lab serve does not need it

        captions = []
        for i, name in enumerate(group.samples):
            caption = f"{choices[int(group.target[i])]} {100 * group.probability[i]:.1f} %"
            if group.label is not None and group.label[i] != group.target[i]:
                caption += f", but is {choices[int(group.label[i])]}"
            captions.append(f"{printable(caption)}\n{printable(Path(name).name)[:40]}")
        path = folder / f"{group.name}.png"
        figure = explained(group.title, group.items, captions, maps, self.feature.sample_rate)
        save(figure, path)
        for i, item in enumerate(group.items, 1):
            path.with_name(f"{group.name}_{i:02}.wav").write_bytes(self.feature.file(self.feature.sample(item), {})[1])
        with SummaryWriter(str(folder.parent)) as writer:
            writer.add_figure(f"{folder.name}/{group.name}", figure, close=False)
        return path


def explained(
    title: str,
    waveforms: Sequence[np.ndarray],
    captions: Sequence[str],
    maps: Mapping[str, Sequence[Tensor]],
    sample_rate: int,
) -> Figure:
    """A row for each recording: its spectrogram, and its attribution by each method."""
    from lab.figures.audio import decibels, draw

    rows, columns = len(waveforms), 1 + len(maps)
    margins, grid = (1.9, 0.4, 0.1, 0.7), {"hspace": 0.4, "wspace": 0.1}
    figure, axes = page(
        (2.0 + 2.4 * columns, 1.1 + 1.3 * rows), title, margins, nrows=rows, ncols=columns, squeeze=False,
        gridspec_kw=grid,
    )  # fmt: skip
    for i, (line, waveform, caption) in enumerate(zip(axes, waveforms, captions, strict=True)):
        seconds = len(waveform) / sample_rate
        draw(line[0], decibels(waveform, sample_rate), seconds, sample_rate)
        line[0].set_ylabel(drawn(caption), rotation=0, ha="right", va="center", fontsize=8)
        for axis, values in zip(line[1:], maps.values(), strict=True):
            share = coloured(values[i])
            axis.imshow(share, origin="lower", aspect="auto", cmap=COLOURS, vmin=0, vmax=1,
                        extent=(0, seconds, 0, len(share)))  # fmt: skip
            axis.set_yticks([])
            axis.tick_params(labelsize=6, length=2, pad=1)
    for axis, name in zip(
        axes[0], ["spectrogram, kHz", *(f"{name.replace('_', ' ')}, mel" for name in maps)], strict=True
    ):
        axis.set_title(name, fontsize=8.5, pad=3)
    return figure


def coloured(attribution: Tensor) -> np.ndarray:
    """(num_mels, F) contributions -> the same in [0, 1], 0.5 is none."""
    values = attribution.float().cpu().numpy()
    return np.asarray(0.5 + 0.5 * values / max(abs(values).max(), 1e-30))
