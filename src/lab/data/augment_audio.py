"""Augmentation of whole batches of waveforms on their device, with different random numbers for each recording."""

import math
from functools import cache, cached_property
from pathlib import Path

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from lab.data.augment import uniform_of_epoch
from lab.engine.constraints import Fraction
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.features.files import files_below
from lab.features.read_audio import SUFFIXES, read_audio

NUM_NOISES, NOISE_SIZE = 32, 2**16  # of generated noise
TAPS = 255  # of the band-stop filter
LEAST_SNR, MOST_SNR = 5.0, 40.0  # dB, of a recording over the added noise
NOISY = 0.8  # the share of the recordings that get noise


class AudioAugment:
    """Random crop, speed, shift, noise, gain, and masks of time and frequency, in this order.

    The numbers are a function of seed, epoch and sample: see `lab.data.augment.uniform_of_epoch`. They depend neither
    on the other recordings of a batch nor on its padding. The masks are those of SpecAugment (Park et al. 2019),
    applied to the waveform: a net need not know the epoch.

    Args:
        crop: seconds; a random part of a longer recording is used. 0: recordings stay whole. A batch is padded to its
            longest recording before: set `max_seconds` and `seconds_per_batch` too if there are very long ones.
        speed: largest change of the speed, as the logarithm of a factor: 0.2 is 0.82 to 1.22. The recording is
            resampled, so pitch and formants change too, as with another throat.
        shift: up to so many seconds of silence before the recording, half as many after it; or up to a quarter as many
            seconds are cut from its beginning.
        noise: add noise, 5 to 40 dB below the recording, to 80 % of the recordings.
        noise_root: a folder of recordings of noise; null: generated noise, from white to brown.
        gain: largest change of the loudness, dB.
        mask_time: the longest span that is silenced, as a fraction of the recording.
        mask_band: the widest band of frequencies that is removed, as a fraction of all frequencies.
    """

    def __init__(
        self,
        crop: NonNegativeFloat = 0.0,
        speed: Fraction = 0.0,
        shift: NonNegativeFloat = 0.0,
        noise: bool = False,
        noise_root: str | None = None,
        gain: NonNegativeFloat = 0.0,
        mask_time: Fraction = 0.0,
        mask_band: Fraction = 0.0,
    ) -> None:
        self.crop, self.speed, self.shift, self.noise, self.noise_root = crop, speed, shift, noise, noise_root
        self.gain, self.mask_time, self.mask_band = gain, mask_time, mask_band

    def __call__(
        self, waveform: Tensor, length: Tensor, index: Tensor, seed: int, epoch: int, sample_rate: int
    ) -> tuple[Tensor, Tensor]:
        """(B, T) waveform, its (B,) length and the (B,) position in the split -> (B, T') waveform and (B,) length."""
        random = uniform_of_epoch(seed, epoch, index, 12)
        if self.crop:
            start = uniform_of_epoch(seed, epoch, -1 - index, 1)[:, 0]
            waveform, length = cropped(waveform, length, max(1, round(self.crop * sample_rate)), start)
        if self.speed:
            factor = torch.exp(self.speed * (2 * random[:, 0] - 1))
            waveform, length = resampled(waveform, length, factor)
        if self.shift:
            waveform, length = shifted(waveform, length, round(self.shift * sample_rate), random[:, 1:3])
        if self.noise:
            noise = self.noises(sample_rate).to(waveform.device)
            waveform = with_noise(waveform, length, noise, random[:, 3:7])
        if self.gain:
            waveform = waveform * 10 ** (self.gain * (2 * random[:, 7:8] - 1) / 20)
        if self.mask_band:
            waveform = without_band(waveform, self.mask_band, random[:, 8:10])
        if self.mask_time:
            waveform = without_span(waveform, length, self.mask_time, random[:, 10:12])
        return waveform * inside(waveform, length), length  # the filter of a band writes to the padding

    def noises(self, sample_rate: int) -> Tensor:
        """(N, T) noises of mean square 1."""
        return self._recorded(sample_rate) if self.noise_root else generated_noise()

    def _recorded(self, sample_rate: int) -> Tensor:
        if sample_rate not in self._noises:
            self._noises[sample_rate] = recorded_noise(expanded(self.noise_root or ""), sample_rate)
        return self._noises[sample_rate]

    @cached_property
    def _noises(self) -> dict[int, Tensor]:
        return {}


def inside(waveform: Tensor, length: Tensor) -> Tensor:
    """(B, T) 1 where a waveform has samples, 0 where it has padding."""
    return (torch.arange(waveform.shape[1], device=waveform.device) < length[:, None]).to(waveform.dtype)


def cropped(waveform: Tensor, length: Tensor, most: int, random: Tensor) -> tuple[Tensor, Tensor]:
    """Keep `most` samples of each longer waveform, from a random place."""
    kept = length.clamp(max=most)
    first = ((length - kept + 1) * random).long()
    at = torch.arange(int(kept.max()), device=waveform.device) + first[:, None]
    part = waveform.gather(1, at.clamp(max=waveform.shape[1] - 1))
    return part * inside(part, kept), kept


def resampled(waveform: Tensor, length: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Play each waveform `factor` (B,) times as fast, by linear interpolation."""
    last, length = length[:, None] - 1, (length / factor).long().clamp(min=1)
    at = torch.arange(int(length.max()), device=waveform.device) * factor[:, None]  # (B, T')
    first = at.long().minimum(last)
    second = (first + 1).minimum(last)
    share = at - first
    changed = waveform.gather(1, first) * (1 - share) + waveform.gather(1, second) * share
    return changed * inside(changed, length), length


def shifted(waveform: Tensor, length: Tensor, most: int, random: Tensor) -> tuple[Tensor, Tensor]:
    """Add up to `most` zeros before each waveform and half as many after it, or cut up to a quarter as many."""
    before = ((random[:, 0] * 1.25 - 0.25) * most).round().long().maximum(-length // 4)
    after = (random[:, 1] * most / 2).round().long()
    last, length = length - 1, length + before + after
    at = torch.arange(int(length.max()), device=waveform.device) - before[:, None]  # (B, T')
    moved = waveform.gather(1, at.clamp(min=0).minimum(last[:, None]))
    return moved * ((at >= 0) & (at <= last[:, None])), length


def with_noise(waveform: Tensor, length: Tensor, noise: Tensor, random: Tensor) -> Tensor:
    """Add a part of one of the (N, T') noises, which repeat themselves, to most waveforms."""
    which, start, loudness, chosen = random.unbind(1)
    at = (start * noise.shape[1]).long()[:, None] + torch.arange(waveform.shape[1], device=waveform.device)
    part = noise[(which * len(noise)).long()[:, None], at % noise.shape[1]] * inside(waveform, length)
    power = (waveform.square().sum(1) / length).sqrt()
    ratio = LEAST_SNR + (MOST_SNR - LEAST_SNR) * loudness
    return waveform + part * (power * 10 ** (-ratio / 20) * (chosen < NOISY))[:, None]


def without_band(waveform: Tensor, most: float, random: Tensor) -> Tensor:
    """Remove a band of up to the fraction `most` of all frequencies from each waveform, by a filter of `TAPS` taps."""
    width = most * random[:, :1]
    low = (1 - width) * random[:, 1:]
    at = torch.arange(TAPS, device=waveform.device) - TAPS // 2  # (TAPS,)
    window = torch.hann_window(TAPS, periodic=False, device=waveform.device)

    def low_pass(edge: Tensor) -> Tensor:
        return edge * torch.sinc(edge * at)

    band = (low_pass(low + width) - low_pass(low)) * window  # (B, TAPS)
    kept = (at == 0).to(band) - band
    size = 2 ** math.ceil(math.log2(waveform.shape[1] + TAPS))  # a convolution by FFT is 10 times as fast as conv1d
    filtered = torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(kept, size), size)
    return filtered[:, TAPS // 2 : TAPS // 2 + waveform.shape[1]]


def without_span(waveform: Tensor, length: Tensor, most: float, random: Tensor) -> Tensor:
    """Silence a span of up to the fraction `most` of each waveform."""
    width = most * random[:, 0] * length
    start = (length - width) * random[:, 1]
    at = torch.arange(waveform.shape[1], device=waveform.device)
    return waveform * ((at < start[:, None]) | (at >= (start + width)[:, None]))


@cache
def generated_noise() -> Tensor:
    """(NUM_NOISES, NOISE_SIZE) noises, from white to brown (power falls with the square of the frequency)."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft(torch.randn(NUM_NOISES, NOISE_SIZE, generator=generator))
    exponent = torch.linspace(0, 1, NUM_NOISES)[:, None]
    spectrum = spectrum * torch.arange(1, spectrum.shape[1] + 1) ** -exponent
    return normalised(torch.fft.irfft(spectrum, NOISE_SIZE))


def recorded_noise(root: Path, sample_rate: int) -> Tensor:
    """(N, T) noises of the files below a folder, each repeated up to the length of the longest.

    Raises:
        UserError: the folder has no recordings, or one can't be read.
    """
    paths = [path for path in files_below(root) if path.suffix.lower() in SUFFIXES] if root.is_dir() else []
    if not paths:
        raise UserError(f"data.augment.noise_root: {root} has no recordings; expected a folder of them.")
    try:
        noises = [torch.from_numpy(read_audio(path.read_bytes(), sample_rate, 60.0).waveform) for path in paths]
    except (OSError, UserError) as error:
        raise UserError(f"data.augment.noise_root: {root}: {error}.") from error
    size = max(map(len, noises))
    return normalised(torch.stack([noise.repeat(math.ceil(size / len(noise)))[:size] for noise in noises]))


def normalised(noise: Tensor) -> Tensor:
    return noise / noise.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
