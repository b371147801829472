from abc import ABC, abstractmethod

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction
from lab.nets.log_mel import LogMel


class SpectrogramNet(nn.Module, ABC):
    """A classifier of waveforms in two parts: the front end makes a spectrogram, `classify` makes logits of it.

    Padding changes no logit. An exported model takes waveforms. Explanations are attributions to the spectrogram.

    Args:
        sample_rate: of the waveforms, Hz.
        num_mels: number of frequency bands.
    """

    def __init__(self, sample_rate: PositiveInt, num_mels: PositiveInt) -> None:
        super().__init__()
        self.front_end = LogMel(sample_rate, num_mels)

    def forward(self, waveform: Tensor, waveform_length: Tensor) -> Tensor:
        """(B, T) waveform and the (B,) number of its samples -> (B, num_classes) logits."""
        return self.classify(*self.front_end(waveform, waveform_length))

    @abstractmethod
    def classify(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        """(B, num_mels, F) spectrogram and (B, 1, F) mask of its frames -> (B, num_classes) logits."""


class Block(nn.Module):
    """Residual: a convolution over time in each channel, a mixture of the channels, batch norm, ReLU."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.time = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.channels = nn.Conv1d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, width, F) x and (B, 1, F) mask -> (B, width, F); padding is 0 before and after."""
        return x + self.norm(self.channels(self.time(x))).relu() * mask


class AudioCNN(SpectrogramNet):
    """Depthwise separable convolutions over time, with the mel bands as channels, as in TC-ResNet and MatchboxNet.

    (Choi et al. 2019, https://arxiv.org/abs/1904.03814; Majumdar & Ginsburg 2020, https://arxiv.org/abs/2004.08531.)
    The mean and the deviation over time of each channel are the inputs of the linear head.

    Args:
        width: channels.
        num_blocks: residual blocks.
        kernel: frames of 20 ms that a convolution covers; an odd number.
        dropout: probability of dropping an input of the head.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        num_classes: PositiveInt,
        num_mels: PositiveInt = 40,
        width: PositiveInt = 64,
        num_blocks: PositiveInt = 4,
        kernel: PositiveInt = 9,
        dropout: Fraction = 0.2,
    ) -> None:
        super().__init__(sample_rate, num_mels)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd number, got {kernel}")
        self.stem = Stem(num_mels, width)
        self.blocks = nn.ModuleList(Block(width, kernel) for _ in range(num_blocks))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, num_classes)

    def classify(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        x, mask = self.stem(spectrogram, mask)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.dropout(pooled(x, mask)))


class AudioCRNN(SpectrogramNet):
    """A convolution, then a bidirectional GRU (Cho et al. 2014) over time; the head gets mean and deviation over time.

    Args:
        width: channels, and units of the GRU in each direction.
        dropout: probability of dropping an input of the head.
    """

    def __init__(
        self,
        sample_rate: PositiveInt,
        num_classes: PositiveInt,
        num_mels: PositiveInt = 40,
        width: PositiveInt = 64,
        dropout: Fraction = 0.2,
    ) -> None:
        super().__init__(sample_rate, num_mels)
        self.stem = Stem(num_mels, width)
        self.from_start, self.from_end = (nn.GRU(width, width, batch_first=True) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def classify(self, spectrogram: Tensor, mask: Tensor) -> Tensor:
        x, mask = self.stem(spectrogram, mask)
        x = x.transpose(1, 2)  # (B, F, width)
        place = reversed_place(mask).expand(-1, -1, x.shape[2])
        backward = self.from_end(x.gather(1, place))[0].gather(1, place)
        both = torch.cat([self.from_start(x)[0], backward], 2).transpose(1, 2)
        return self.head(self.dropout(pooled(both * mask, mask)))


class Stem(nn.Module):
    """A convolution that takes every second frame, batch norm, ReLU."""

    def __init__(self, num_mels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(num_mels, width, 5, padding=2, stride=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, num_mels, F) x and (B, 1, F) mask -> (B, width, ceil(F / 2)) and its mask."""
        mask = mask[:, :, ::2]
        return self.layers(x) * mask, mask


def pooled(x: Tensor, mask: Tensor) -> Tensor:
    """(B, C, F) x and (B, 1, F) mask -> (B, 2 C): mean and standard deviation over the frames of each recording."""
    num = mask.sum(2)
    mean = (x * mask).sum(2) / num
    variance = ((x - mean[..., None]) * mask).square().sum(2) / num
    return torch.cat([mean, (variance + 1e-5).sqrt()], 1)


def reversed_place(mask: Tensor) -> Tensor:
    """(B, 1, F) mask -> (B, F, 1) position of each frame in the reversed recording. Padding keeps its position."""
    inside, place = mask[:, 0] > 0, torch.arange(mask.shape[2], device=mask.device)
    return torch.where(inside, inside.sum(1, keepdim=True) - 1 - place, place)[..., None]
