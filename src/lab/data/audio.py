"""Recordings and their classes: what all data modules for audio classification share."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat
from tqdm import tqdm

from lab.data.augment_audio import AudioAugment
from lab.data.base import Data
from lab.data.batches import Batch, Batches
from lab.data.classes import check_classes, classification_facts
from lab.data.facts import Facts
from lab.data.waveforms import Decoded, Heard, Item, Recordings, Waveforms, hear, key_of
from lab.engine import timing
from lab.features.audio import NUM_THREADS, Audio, SampleRate, Seconds
from lab.features.base import Feature
from lab.features.labels import ClassLabel
from lab.features.read_audio import soundfile, wav

NUM_HEARD = 12  # recordings of a figure that are kept as sound


class AudioData(Data):
    """Batches of `waveform` (B, T) in about [-1, 1], `waveform_length` (B,), `label` (B,) and `index` (B,).

    Recordings are mono. They are resampled when they are read. Training recordings are changed by `augment`, on the
    device.

    Args:
        sample_rate: Hz.
        max_seconds: the middle of a longer recording is used.
        trim: dB; the beginning and the end of a recording are left out where they are quieter than its loudest moment
            by more than this. Predictions do the same. null: nothing is left out.
        seconds_per_batch: the most seconds in a batch, including padding; replaces `batch_size`. In a step of several
            batches, or processes, each batch has the same weight.
        augment: changes the waveforms of training batches.
        skip_unreadable: leave out recordings that can't be decoded; false: they are an error.
        cache: keep all decoded recordings in memory, 4 bytes for each sample; false: decode them for each batch.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"audio": Audio, "label": ClassLabel}
    fractions: dict[str, float]  # the shares of the splits that are drawn if the files do not define them

    def __init__(
        self,
        sample_rate: SampleRate,
        max_seconds: Seconds,
        trim: PositiveFloat | None = None,
        seconds_per_batch: PositiveFloat | None = None,
        augment: AudioAugment | None = None,
        skip_unreadable: bool = False,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sample_rate, self.max_seconds, self.trim, self.augment = sample_rate, max_seconds, trim, augment
        self.skip_unreadable, self.cache = skip_unreadable, cache
        self.tokens_per_batch = max(1, int(seconds_per_batch * sample_rate)) if seconds_per_batch else None

    @abstractmethod
    def find(self) -> tuple[dict[str, Recordings], list[str], Path]:
        """Find the recordings of each split, at least those of "train"; the names of the classes, and the root.

        Raises:
            UserError: files are missing, or the folder has another layout.
        """

    def divide(self, found: dict[str, Recordings]) -> dict[str, Recordings]:
        """Return all three splits; missing splits are drawn from train, groups whole."""
        train = found["train"]
        missing = {name: share for name, share in self.fractions.items() if name not in found}
        parts = self.draw(torch.tensor(train.label), missing, train.group, len(found.get("test", ())))
        return found | {name: train.subset(index) for name, index in parts.items()}

    def read(self) -> tuple[dict[str, Batches], Facts]:
        soundfile()
        found, class_names, root = self.find()
        audio = Audio(self.sample_rate, self.max_seconds, trim=self.trim)
        heard = self._hear([item for each in found.values() for item in each.items], audio, root)
        splits = self.divide({name: each.among(heard) for name, each in found.items()})
        self.names = {name: each.names for name, each in splits.items()}
        labels = {name: each.label for name, each in splits.items()}
        class_names = check_classes(labels, class_names)
        of = {name: [heard[key_of(item)] for item in each.items] for name, each in splits.items()}
        contents = {name: [each.content for each in clips] for name, clips in of.items()}
        self.report.describe(contents, self.names)
        self.report.count_classes(labels, class_names)
        self._describe(of, splits)
        facts = classification_facts({"audio": audio}, contents, labels, class_names)
        return {name: self._batches(splits[name], of[name], audio) for name in splits}, facts

    def _batches(self, split: Recordings, heard: Sequence[Heard], audio: Audio) -> Waveforms:
        kept = [each.waveform for each in heard if each.waveform is not None]
        clips = kept if len(kept) == len(split) else Decoded(split.items, audio)
        return Waveforms(clips, torch.tensor([each.length for each in heard]), torch.tensor(split.label), audio)

    def _hear(self, items: Sequence[Item], audio: Audio, root: Path) -> dict[str | int, Heard]:
        """Decode every recording once. Those that can't be read raise UserError, or are left out."""
        with timing.announced(f"Decoding {len(items):,} recordings"), ThreadPoolExecutor(NUM_THREADS) as pool:
            decoded = pool.map(partial(hear, audio=audio, keep=self.cache), items)
            heard = list(tqdm(decoded, "Decoding", len(items), leave=False, disable=None, delay=2))
        problems = [each for each in heard if isinstance(each, str)]
        self.report.refuse("recordings", problems, len(items), root, self.skip_unreadable)
        return {key_of(item): each for item, each in zip(items, heard, strict=True) if isinstance(each, Heard)}

    def _describe(self, heard: dict[str, list[Heard]], splits: dict[str, Recordings]) -> None:
        """Add durations, sample rates and doubts to the report of the data."""
        every = [(each, name) for split, of in heard.items() for each, name in zip(of, self.names[split], strict=True)]
        seconds = [each.seconds for each, _ in every]
        rates = Counter(each.sample_rate for each, _ in every).most_common()
        of_rates = ", ".join(f"{rate:,} Hz ({num:,})" for rate, num in rates)
        self.report.find(
            f"{sum(seconds) / 60:.1f} minutes; a recording has {min(seconds):.2f} to {max(seconds):.2f} s, median"
            f" {median(seconds):.2f} s; {of_rates}; read at {self.sample_rate:,} Hz"
        )
        cut = [name for each, name in every if each.is_cut]
        self.report.leave_out(f"recordings of which only the middle {self.max_seconds:g} s are used", cut)
        for is_so, what in (
            (lambda each: each.is_silent, "are silent"),
            (lambda each: each.is_clipped, "are clipped"),
            (lambda each: each.is_truncated, "are truncated: the file is shorter than its header tells"),
        ):
            if names := [name for each, name in every if is_so(each)]:
                self.report.warnings.append(f"{len(names):,} of {len(every):,} recordings {what}, such as {names[0]}")
        for split, of in heard.items():
            if twins := len(of) - len({each.content for each in of}):
                self.report.warnings.append(f"{twins:,} of {len(of):,} {split} recordings occur in it more than once")
        known = set(splits["train"].group or ())
        for split in ("val", "test"):
            if groups := set(splits[split].group or ()):
                shared = f"{len(groups & known)} of the {len(groups)} groups (speakers) of {split} are in train"
                (self.report.warnings.append if split == "test" and groups & known else self.report.find)(shared)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        if not (self.augment and "waveform" in batch and self.trainer is not None and self.trainer.training):
            return batch
        now = self.seed, self.trainer.current_epoch, self.sample_rate
        waveform, length = self.augment(batch["waveform"], batch["waveform_length"], batch["index"], *now)
        return batch | {"waveform": waveform, "waveform_length": length}

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        from lab.figures.audio import recordings  # importing matplotlib takes half a second
        from lab.figures.page import Heard

        audio = self.facts.features["audio"]
        waveforms = [
            waveform[:length].cpu().numpy()
            for waveform, length in zip(batch["waveform"], batch["waveform_length"].tolist(), strict=True)
        ]
        sounds = [(text, wav(each, audio.sample_rate)) for text, each in zip(captions, waveforms, strict=True)]
        return Heard(recordings(waveforms, audio.sample_rate, captions, title), sounds[:NUM_HEARD])

    def figures(self, batch: Batch) -> dict[str, Any]:
        names = [self.facts.features["label"].class_names[i] for i in batch["label"].tolist()]
        return {"samples": self.show(batch, names, "training samples as the net hears them")}
