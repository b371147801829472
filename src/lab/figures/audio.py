"""Figures of recordings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab.engine.display import drawn
from lab.figures.page import page

WINDOW, HOP, RANGE = 0.032, 0.005, 60.0  # seconds, seconds, dB


def recordings(
    waveforms: Sequence[np.ndarray], sample_rate: int, titles: Sequence[str], title: str, columns: int = 8
) -> Figure:
    """A grid of the spectrograms of (T,) waveforms, each with a title of one or two lines."""
    columns = min(columns, len(waveforms))
    rows, lines = -(-len(waveforms) // columns), max(text.count("\n") + 1 for text in titles)
    size = (columns * 1.5 + 0.6, rows * (1.25 + 0.17 * lines) + 0.9)
    grid = {"wspace": 0.08, "hspace": 0.25 + 0.17 * lines}
    figure, axes = page(size, title, (0.5, 0.45, 0.1, 0.45 + 0.17 * lines), nrows=rows, ncols=columns, squeeze=False,
                        gridspec_kw=grid, sharey=True)  # fmt: skip
    for axis in axes.flat[len(waveforms) :]:
        axis.axis("off")
    for axis, waveform, text in zip(axes.flat, waveforms, titles, strict=False):
        draw(axis, decibels(waveform, sample_rate), len(waveform) / sample_rate, sample_rate)
        axis.set_title(drawn(text), fontsize=8, pad=3)
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz", fontsize=7)
    return figure


def draw(axis: Any, level: np.ndarray, seconds: float, sample_rate: int, **kwargs: object) -> None:
    """Draw a (frequencies, frames) array over time (s) and frequency (kHz)."""
    extent = (0, seconds, 0, sample_rate / 2000)
    axis.imshow(level, origin="lower", aspect="auto", extent=extent, **{"cmap": "magma", **kwargs})
    axis.tick_params(labelsize=6, length=2, pad=1)


def decibels(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T,) waveform -> (frequencies, frames) level in dB below the loudest, at least -RANGE."""
    size, hop = round(WINDOW * sample_rate), max(1, round(HOP * sample_rate))
    long = np.pad(np.asarray(waveform, np.float64), size // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(long, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size))).T
    return np.asarray(20 * np.log10(np.maximum(magnitude / max(magnitude.max(), 1e-9), 10 ** (-RANGE / 20))))
