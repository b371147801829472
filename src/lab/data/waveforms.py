"""Recordings of a split: files or waveforms, what decoding tells about them, and their batches."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lab.data.batches import Batch, Batches
from lab.data.data_report import digest
from lab.engine.errors import UserError
from lab.features.audio import Audio
from lab.features.base import stack
from lab.features.files import content_of

SILENT = 1e-4  # the largest amplitude of a silent recording: -80 dB
LOUD, CLIPPED = 0.999, 0.001  # a recording is clipped if this share of its samples is at least so loud

Item = str | np.ndarray  # the path of a file, or a (T,) waveform at the sample rate of the data


@dataclass
class Recordings:
    """The recordings of a split: items, names for reports, classes, and a group (such as the speaker) of each."""

    items: list[Item] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    group: list[str] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, indices: Sequence[int]) -> "Recordings":
        items, names, label = ([values[i] for i in indices] for values in (self.items, self.names, self.label))
        group = None if self.group is None else [self.group[i] for i in indices]
        return Recordings(items, names, label, group)  # type: ignore[arg-type]

    def among(self, keys: Container[str | int]) -> "Recordings":
        """Return the recordings with one of these keys."""
        return self.subset([i for i, item in enumerate(self.items) if key_of(item) in keys])


@dataclass(frozen=True)
class Heard:
    """The properties of a recording, decoded once."""

    content: bytes  # a digest of the waveform
    length: int  # samples at the sample rate of the data
    seconds: float  # of the file, before trimming
    sample_rate: int  # of the file
    is_cut: bool  # only its middle is used
    is_silent: bool
    is_clipped: bool
    is_truncated: bool
    waveform: np.ndarray | None  # None: it is decoded again for each batch


class Waveforms(Batches):
    """Recordings: `waveform` (B, T) padded with zeros, `waveform_length` (B,) and `label` (B,).

    Args:
        clips: the (T,) float32 waveform of each.
        length: (N,) their lengths.
        label: (N,) their classes.
        audio: the feature.
    """

    def __init__(self, clips: Sequence[np.ndarray], length: Tensor, label: Tensor, audio: Audio) -> None:
        self.clips, self.label, self.audio = clips, label, audio
        self.length: Tensor = length

    def __len__(self) -> int:
        return len(self.length)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        arrays = stack([self.audio.sample(self.clips[i]) for i in index.tolist()])
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {
            "label": self.label[index],
            "index": index,
        }

    def subset(self, indices: Sequence[int]) -> Self:
        index = torch.as_tensor(indices)
        return type(self)([self.clips[i] for i in index.tolist()], self.length[index], self.label[index], self.audio)


class Decoded(Sequence[np.ndarray]):
    """Waveforms that are decoded when they are used, so that they need no memory."""

    def __init__(self, items: Sequence[Item], audio: Audio) -> None:
        self.items, self.audio = items, audio

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        item = self.items[i]
        if isinstance(item, np.ndarray):
            return item
        return self.audio.clip(content_of(item)).waveform


def key_of(item: Item) -> str | int:
    """Return the key of an item in a dictionary."""
    return id(item) if isinstance(item, np.ndarray) else item


def hear(item: Item, audio: Audio, keep: bool) -> Heard | str:
    """Decode an item. Return its properties, or the reason why it can't be read.

    Args:
        item: a file or a waveform.
        audio: the feature.
        keep: keep the waveform.
    """
    if isinstance(item, np.ndarray):
        return _heard(item, len(item) / audio.sample_rate, audio.sample_rate, False, False, True)
    try:
        clip = audio.clip(content_of(item))
    except UserError as error:
        return f"{item} is not a readable recording ({error.__cause__ or error})"
    return _heard(clip.waveform, clip.seconds, clip.sample_rate, clip.is_cut, clip.is_truncated, keep)


def _heard(
    waveform: np.ndarray, seconds: float, sample_rate: int, is_cut: bool, is_truncated: bool, keep: bool
) -> Heard:
    loud = np.abs(waveform)
    return Heard(
        digest(waveform.tobytes()),
        len(waveform),
        seconds,
        sample_rate,
        is_cut,
        bool(loud.max() < SILENT),
        bool((loud >= LOUD).mean() > CLIPPED),
        is_truncated,
        waveform if keep else None,
    )
