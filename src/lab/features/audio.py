import base64
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveFloat

from lab.engine.display import say
from lab.engine.errors import UserError
from lab.features.base import Feature, Sample, TooLargeError
from lab.features.files import content_of, find_files, of_base64
from lab.features.read_audio import HIGHEST, LOWEST, MOST, SUFFIXES, Clip, read_audio, soundfile, wav

NUM_THREADS = 4  # of decoding; each may hold a file of MOST samples
SampleRate = Annotated[int, Field(ge=LOWEST, le=HIGHEST)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


@dataclass(frozen=True)
class Audio(Feature):
    """A recording in any format that libsndfile reads: `waveform` (T,) float32 in about [-1, 1], and its length.

    It is mono, and resampled to `sample_rate`. In a batch, `waveform` (B, T) is padded with zeros to the longest, and
    `waveform_length` (B,) int64 has the number of samples of each. As an output, it has the same two entries.

    Args:
        sample_rate: Hz.
        max_seconds: the middle of a longer recording is used.
        entry: the name of the waveform in a batch.
        trim: dB; the beginning and the end of a recording are left out where they are quieter than its loudest moment
            by more than this. null: nothing is left out.
    """

    sample_rate: SampleRate
    max_seconds: Seconds
    entry: str = "waveform"
    trim: PositiveFloat | None = None

    fact_names = ("sample_rate",)
    item, column, content_types, in_json, accept = "recording", "path", "audio/", "<base64>", "audio/*"
    explainer = "lab.verbs.explain.audio.AudioExplainer"

    @property
    def length_entry(self) -> str:
        return f"{self.entry}_length"

    @property
    def entries(self) -> tuple[str, ...]:
        return self.entry, self.length_entry

    @property
    def free_dims(self) -> dict[str, tuple[int, ...]]:
        return {self.entry: (1,)}

    @property
    def about(self) -> str:
        return f"recordings of up to {self.max_seconds:g} s at {self.sample_rate:,} Hz"

    def clip(self, content: bytes, most: float = MOST) -> Clip:
        """Decode a file. Arguments and errors are those of `read_audio`."""
        return read_audio(content, self.sample_rate, self.max_seconds, most, self.trim)

    def sample(self, waveform: np.ndarray) -> Sample:
        """Return the entries of a (T,) waveform at `sample_rate`."""
        return {self.entry: waveform, self.length_entry: np.array(len(waveform), np.int64)}

    def waveform(self, sample: Sample) -> np.ndarray:
        """(T,) float32: the waveform of a sample, without padding."""
        return np.asarray(sample[self.entry][: int(sample[self.length_entry])], np.float32)

    def example(self) -> Sample:
        return self.sample(np.zeros(max(1, int(self.max_seconds * self.sample_rate)), np.float32))

    def find(self, source: str) -> list[str]:
        """A file, the recordings in a folder, the files of a glob pattern; `-`: paths on standard input."""
        return find_files(source, SUFFIXES, "recordings")

    def read(self, items: Sequence[str]) -> tuple[list[Sample], list[str]]:
        """Return the samples of the readable files. A line on stderr tells which were cut or are truncated."""
        soundfile()  # one error if it is not installed, not one for each file

        def read(path: str) -> Clip | UserError:
            try:
                return self.clip(content_of(path))
            except UserError as error:
                return error

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            answers = list(pool.map(read, items))
        clips = [(path, clip) for path, clip in zip(items, answers, strict=True) if isinstance(clip, Clip)]
        limit = f"are longer than {self.max_seconds:g} s; their middle is used"
        for paths, what in (
            ([path for path, clip in clips if clip.is_cut], limit),
            ([path for path, clip in clips if clip.is_truncated], "are truncated; the part that exists is used"),
        ):
            if paths:
                say(f"warning: {len(paths)} of {len(items)} recordings {what}, such as {paths[0]}", file=sys.stderr)
        errors = ["" if isinstance(each, Clip) else _reason(each) for each in answers]
        return [self.sample(clip.waveform) for _, clip in clips], errors

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        try:
            most = min(MOST, 1e6 * max_megapixels)
            return self.sample(self.clip(content, most).waveform)
        except TooLargeError as error:
            raise TooLargeError(f"The recording is too long: {error}; send a shorter one.") from error
        except UserError as error:
            if isinstance(error.__cause__, ImportError | OSError):
                raise
            raise UserError(f"The recording can't be read: {error.__cause__}.") from error

    def from_json(self, value: Any) -> bytes:
        """Decode base64, also as a data URL."""
        return of_base64(super().from_json(value).decode())

    def file(self, sample: Sample, inputs: Sample) -> tuple[str, bytes]:
        return ".wav", wav(self.waveform(sample), self.sample_rate)

    def html(self, sample: Sample) -> str:
        return player(self.file(sample, {})[1])


def _reason(error: UserError) -> str:
    """An error of `read_audio` or of `content_of`."""
    return f"not a readable recording ({error.__cause__})" if isinstance(error.__cause__, ValueError) else str(error)


def player(content: bytes) -> str:
    """The content of a WAV file -> an HTML element that plays it."""
    return f'<audio controls src="data:audio/wav;base64,{base64.b64encode(content).decode()}"></audio>'
