"""The front end of nets for audio: a waveform becomes a log-mel spectrogram, in plain torch, so that it is exported."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW, HOP = 0.032, 0.010  # seconds
FLOOR = 1e-5  # the smallest magnitude; its logarithm is that of digital silence
LOWEST = 20.0  # Hz


class LogMel(nn.Module):
    """The log-mel spectrogram of each recording, normalised by its own statistics.

    Short-time Fourier transform (Hann window of 32 ms, every 10 ms), mel bands, logarithm. The mean of each band over
    the recording is subtracted, which removes loudness and the colour of the microphone; then one deviation over all
    bands divides. Samples and frames of padding change no number.

    Args:
        sample_rate: Hz.
        num_mels: number of bands.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, num_mels: int) -> None:
        super().__init__()
        self.size, self.hop = round(WINDOW * sample_rate), max(1, round(HOP * sample_rate))
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, self.size, num_mels), persistent=False)

    def forward(self, waveform: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) waveform and its (B,) length -> (B, num_mels, F) spectrogram and (B, 1, F) mask of its frames."""
        with torch.autocast(waveform.device.type, enabled=False):  # half precision has too few digits for the logarithm
            mel = self.log_mel(F.pad(waveform.float(), (0, 2 * self.hop)))  # an exported model takes any length
        mask = frame_mask(length // self.hop + 1, mel)
        return normalised(mel, mask), mask

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(B, T) -> (B, num_mels, T // hop + 1): the logarithm of the magnitudes of the bands."""
        spectrum = torch.stft(
            waveform, self.size, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        return (self.filters @ spectrum.abs()).clamp(min=FLOOR).log()


def frame_mask(num: Tensor, x: Tensor) -> Tensor:
    """(B,) number of frames and (B, C, frames) x -> (B, 1, frames): 1 for frames of a recording, 0 for padding."""
    return (torch.arange(x.shape[2], device=x.device) < num[:, None])[:, None].to(x.dtype)


def normalised(x: Tensor, mask: Tensor) -> Tensor:
    """Subtract the mean of each band, and divide by the deviation of all bands; padding becomes 0."""
    num = mask.sum(2, keepdim=True)
    centred = (x - (x * mask).sum(2, keepdim=True) / num) * mask
    variance = centred.square().sum((1, 2), keepdim=True) / (num * x.shape[1])
    return centred / (variance + 1e-2).sqrt()


def mel_filters(sample_rate: int, size: int, num_mels: int) -> Tensor:
    """(num_mels, size // 2 + 1) triangles of area 1 (Slaney 1998), of equal width on the mel scale (HTK's formula).

    Raises:
        ValueError: a band is so narrow that it has no frequency of the transform.
    """
    lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST, sample_rate / 2))
    edge = 700 * (10 ** (torch.linspace(lowest, highest, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    hertz = torch.linspace(0, sample_rate / 2, size // 2 + 1, dtype=torch.float64)
    low, middle, high = (edge[i : i + num_mels, None] for i in range(3))
    triangle = torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp(min=0)
    if not triangle.any(1).all():
        raise ValueError(f"{num_mels} mel bands are too many at {sample_rate} Hz: a band has no frequency; use fewer")
    return (triangle * 2 / (high - low)).float()
