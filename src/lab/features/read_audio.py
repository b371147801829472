"""Decode audio files with libsndfile, and resample them. Exported models need no torch.

libsndfile returns NaN and the shorter part of a truncated file without an error, and it believes headers: a FLAC file
of 100 bytes may claim 256 GiB. Here samples are decoded in blocks until the data ends.
"""

import io
import wave as wave_module
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from lab.engine.errors import UserError
from lab.features.base import TooLargeError

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf")
MOST = 100_000_000  # samples that are decoded of a file, all channels together
BLOCK = 2**20  # samples that are decoded at once, all channels together
LOWEST, HIGHEST = 1_000, 768_000  # sample rates, Hz


@dataclass(frozen=True)
class Clip:
    """The decoded content of a file.

    Args:
        waveform: (T,) float32, mono, at the sample rate of the run.
        sample_rate: of the file, Hz.
        seconds: of the file, before trimming.
        is_cut: after trimming it is longer than `max_seconds`, so only its middle is used.
        is_truncated: the header of the file promises more bytes than the file has.
    """

    waveform: np.ndarray
    sample_rate: int
    seconds: float
    is_cut: bool
    is_truncated: bool


def soundfile() -> ModuleType:
    """The module `soundfile`, which takes 0.1 s to import.

    Raises:
        UserError: it is not installed.
    """
    try:
        import soundfile as module
    except (ImportError, OSError) as error:  # OSError: libsndfile is missing
        raise UserError(f"error: audio: {error}. pip install 'lab-template[audio]'") from error
    return module


def read_audio(
    content: bytes, sample_rate: int, max_seconds: float, most: float = MOST, trim: float | None = None
) -> Clip:
    """Decode a file: the mean of its channels, its middle `max_seconds` if it is longer, resampled to `sample_rate`.

    Args:
        content: the bytes of a file in any format that libsndfile reads; its name does not matter.
        sample_rate: of the result, Hz.
        max_seconds: the longest result.
        most: the largest number of samples in the file, all channels together.
        trim: dB; what is quieter at the beginning and the end is left out first. See `trimmed`.

    Raises:
        TooLargeError: the file has more samples than `most`.
        UserError: the content cannot be decoded, is empty, or has samples that are NaN or infinite. Its cause is the
            reason.
    """
    if not content:
        raise UserError("the audio can't be read: it is empty") from ValueError("it is empty")
    with _readable(), soundfile().SoundFile(io.BytesIO(content)) as file:
        rate = file.samplerate
        if not LOWEST <= rate <= HIGHEST:
            raise ValueError(f"its sample rate is {rate} Hz; expected {LOWEST} to {HIGHEST}")
        mono = np.concatenate([*_blocks(file, most), np.zeros(0, np.float32)])
        if not len(mono):
            raise ValueError("it has no samples")
        if not np.isfinite(mono).all():
            raise ValueError("it has samples that are NaN or infinite")
        seconds = len(mono) / rate
        mono = trimmed(mono, rate, trim) if trim else mono
        is_cut = len(mono) / rate > max_seconds
        middle = _middle(mono, max(1, int(max_seconds * rate)))
        waveform = _middle(resampled(middle, rate, sample_rate), max(1, int(max_seconds * sample_rate)))
    return Clip(np.ascontiguousarray(waveform), rate, seconds, is_cut, _is_truncated(content))


def _blocks(file: Any, most: float) -> Iterator[np.ndarray]:
    """Yield the mean of the channels, block by block, until the data ends."""
    size, num = max(1, BLOCK // file.channels), 0
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        num += block.size
        if num > most:
            raise TooLargeError(f"it has more than {most:,.0f} samples")
        yield block.mean(1, dtype=np.float32) if file.channels > 1 else block[:, 0]


def _middle(waveform: np.ndarray, most: int) -> np.ndarray:
    start = max(0, (len(waveform) - most) // 2)
    return waveform[start : start + most]


def resampled(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(T,) waveform at `rate` -> (T',) at `sample_rate`; a clip of one sample stays one."""
    if rate == sample_rate:
        return waveform
    import soxr  # takes 0.2 s, and few files need it

    changed: np.ndarray = soxr.resample(waveform, rate, sample_rate)
    return changed if len(changed) else waveform[:1]


def trimmed(waveform: np.ndarray, sample_rate: int, below: float) -> np.ndarray:
    """(T,) waveform -> its part from the first to the last loud moment, and 20 ms on both sides.

    A frame of 20 ms is loud if its power is at most `below` dB under that of the loudest frame.
    """
    size = max(1, sample_rate // 50)
    num = len(waveform) // size
    frames, rest = waveform[: num * size].reshape(num, size), waveform[num * size :]
    energy = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)  # converts block by block, so needs no memory
    power = np.append(energy, np.einsum("i,i", rest, rest, dtype=np.float64))
    loud = np.flatnonzero(power >= power.max() * 10 ** (-below / 10))
    return waveform[max(0, loud[0] - 1) * size : (loud[-1] + 2) * size]


def _is_truncated(content: bytes) -> bool:
    """Return whether a WAV file is shorter than its header tells. Programs that write to a pipe leave 0 or 2^32 - 1."""
    size = int.from_bytes(content[4:8], "little")
    return content[:4] == b"RIFF" and 0 < size < 2**32 - 2**16 and size + 8 > len(content) + 1  # a missing pad byte


@contextmanager
def _readable() -> Iterator[None]:
    """Convert any error of the libraries to a UserError whose cause tells the reason."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
        raise UserError(f"the audio can't be read: {text}") from ValueError(text)


def wav(waveform: np.ndarray, sample_rate: int) -> bytes:
    """(T,) floats in [-1, 1] -> the content of a WAV file of 16 bits. Larger values are clipped."""
    level = (np.clip(waveform, -1, 1) * 32767).round().astype("<i2")
    with io.BytesIO() as file:
        with wave_module.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(sample_rate)
            writer.writeframes(level.tobytes())
        return file.getvalue()
