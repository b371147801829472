"""Words spoken by the voices of eSpeak NG: a data set that needs no download."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

from lab.data import tiny_audio
from lab.data.audio import AudioData
from lab.data.espeak import Request, spoken, variants
from lab.data.waveforms import Recordings
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.features.read_audio import resampled

ACCENTS = ("en-us", "en-gb-x-rp")
SPEEDS, PITCHES = (130, 230), (20, 80)  # words per minute; from low to high
QUIET = 0.02  # of the loudest sample: silence at the beginning and the end is left out


class SpokenWords(AudioData):
    """Words in American and British English, by 87 voices of a formant synthesiser. Voices are whole in a split.

    Voices of different names can be almost equal, such as max and RicishayMax, which share 90 % of their settings: with
    such a pair in two splits, the score of unknown voices is optimistic.

    Speed and pitch of each recording are drawn from `split_seed`, the voice, the word and the take.

    Args:
        words: the classes.
        takes: recordings of each word by each voice in each accent.
        val_fraction: share of the voices in the validation split.
        test_fraction: share of the voices in the test split.
    """

    def __init__(
        self,
        words: Annotated[list[str], Field(min_length=2)],
        val_fraction: Share,
        test_fraction: Share,
        takes: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(set(words)) < len(words):
            raise UserError("data.words: a word occurs more than once.")
        self.words, self.takes, self.fractions = words, takes, {"val": val_fraction, "test": test_fraction}

    def find(self) -> tuple[dict[str, Recordings], list[str], Path]:
        names = list(tiny_audio.WORDS)[:3] if self.tiny else self.words
        speakers = list(tiny_audio.SPEAKERS) if self.tiny else variants()
        every = list(product(speakers, ACCENTS, range(self.takes), names))
        clips = self._tiny(every) if self.tiny else self._spoken(every)
        everything = Recordings(
            clips,
            [f"{accent}+{speaker}_{word}_{take}" for speaker, accent, take, word in every],
            [names.index(word) for *_, word in every],
            [speaker.rstrip("0123456789") for speaker, *_ in every],  # klatt2 and klatt3 are almost the same voice
        )
        self.report.find(f"{len(everything):,} recordings by {len(set(speakers))} voices")
        return {"train": everything}, names, Path()

    def _tiny(self, every: list[tuple[str, str, int, str]]) -> list[Any]:
        pitches = tiny_audio.SPEAKERS
        clips = [
            tiny_audio.word(word, pitches[speaker], 2 * take + ACCENTS.index(accent))
            for speaker, accent, take, word in every
        ]
        return [resampled(clip, tiny_audio.RATE, self.sample_rate) for clip in clips]

    def _spoken(self, every: list[tuple[str, str, int, str]]) -> list[Any]:
        requests = []
        for speaker, accent, take, word in every:
            random = np.random.default_rng([self.split_seed, take, *f"{accent}+{speaker} {word}".encode()])
            speed, pitch = int(random.integers(*SPEEDS)), int(random.integers(*PITCHES))
            requests.append(Request(word, f"{accent}+{speaker}", speed, pitch))
        clips, rate = spoken(requests)
        return [self._cut(clip, rate, request.text) for clip, request in zip(clips, requests, strict=True)]

    def _cut(self, clip: np.ndarray, rate: int, word: str) -> np.ndarray:
        """(T,) int16 -> (T',) float32 at the sample rate of the data, without silence at its ends."""
        waveform = clip.astype(np.float32) / 32768
        level = np.abs(waveform)
        loud = np.flatnonzero(level > QUIET * level.max(initial=0))
        if not len(loud):
            raise UserError(f"data.words: eSpeak NG has no sound for '{word}'.")
        waveform = resampled(waveform[loud[0] : loud[-1] + 1], rate, self.sample_rate)
        return np.ascontiguousarray(waveform[: int(self.max_seconds * self.sample_rate)])
