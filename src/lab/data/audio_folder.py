"""Recordings in a folder for each class, and the layout of Google Speech Commands."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeFloat

from lab.data import tiny_audio
from lab.data.audio import AudioData
from lab.data.class_folders import ClassFiles, read_class_folders, relative
from lab.data.split import pattern_groups
from lab.data.waveforms import Recordings
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.features.files import content_of, files_below, visible
from lab.features.read_audio import SUFFIXES, read_audio

LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
NOISE, UNKNOWN, SILENCE = "_background_noise_", "_unknown_", "_silence_"


class AudioFolder(AudioData):
    """Recordings in a folder for each class, in `root` or in `root/train`, `root/val` and `root/test`.

    Args:
        root: the folder. A missing val or test folder is drawn from train.
        val_fraction: share of each class in the validation split, if there is no val folder.
        test_fraction: share of each class in the test split, if there is no test folder.
        group: a regular expression. Files with the same match in their path below `root` are in one split, such as
            those of a speaker. If it has a parenthesis, that part counts.
    """

    def __init__(
        self, root: str | None, val_fraction: Share, test_fraction: Share, group: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.group, self.fractions = root, group, {"val": val_fraction, "test": test_fraction}

    def find(self) -> tuple[dict[str, Recordings], list[str], Path]:
        root = tiny_audio.class_folder() if self.tiny else given_root(self.root)
        found, class_names = read_class_folders(root, SUFFIXES, "recordings", self.report)
        return {name: self._recordings(files, class_names, root) for name, files in found.items()}, class_names, root

    def _recordings(self, files: ClassFiles, class_names: Sequence[str], root: Path) -> Recordings:
        names = [relative(path, root) for path in files.paths]
        label = [class_names.index(name) for name in files.label]
        return Recordings([*files.paths], names, label, pattern_groups(self.group, files.paths, files.folder))


class GoogleCommands(AudioData):
    """Google Speech Commands (Warden 2018, https://arxiv.org/abs/1804.03209), as published.

    The splits are those of `validation_list.txt` and `testing_list.txt`, which hold speakers apart. With `words`, the
    classes are these words, `_unknown_` (other words, drawn at random), and `_silence_` (random parts of the background
    noise with a random loudness), each of a share of the words' recordings, as in the paper's section 6.2.

    Args:
        root: the folder, with a folder of `<speaker>_nohash_<number>.wav` for each word.
        words: the words to recognise; null: all words, without unknown and silence.
        unknown_fraction: recordings of other words, as a share of those of `words`.
        silence_fraction: recordings of silence, as a share of those of `words`.
    """

    def __init__(
        self,
        root: str | None,
        words: list[str] | None = None,
        unknown_fraction: NonNegativeFloat = 0.1,
        silence_fraction: NonNegativeFloat = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.words = root, words
        self.unknown_fraction, self.silence_fraction = unknown_fraction, silence_fraction

    def find(self) -> tuple[dict[str, Recordings], list[str], Path]:
        root = tiny_audio.google_commands() if self.tiny else given_root(self.root)
        listed = {name: split for file, split in LISTS.items() for name in _lines(root / file)}
        folders = {path.name: path for path in visible(root) if path.is_dir() and not path.name.startswith("_")}
        if unknown := sorted(set(self.words or ()) - set(folders)):
            raise UserError(f"data.words: {root} has no folder {unknown[0]}; it has {', '.join(folders) or 'none'}.")
        words = self.words or list(folders)
        found = {split: Recordings([], [], [], []) for split in ("train", "val", "test")}
        others = {split: Recordings([], [], [], []) for split in found}
        for word, folder in folders.items():
            for path in (path for path in files_below(folder) if path.suffix.lower() in SUFFIXES):
                name = relative(path, root)
                target = (found if word in words else others)[listed.get(name, "train")]
                _add(target, str(path), name, words.index(word) if word in words else len(words))
        self.report.find(f"{sum(map(len, found.values())):,} recordings of {len(words)} words; the official splits")
        self._refuse_lists(listed, found, others, root)
        if self.words is None:
            return found, words, root
        for stage, (split, recordings) in enumerate(found.items()):
            num, random = len(recordings), np.random.default_rng([self.split_seed, stage])
            _append(recordings, _some(others[split], round(num * self.unknown_fraction), random))
            _append(recordings, self._silence(root, split, round(num * self.silence_fraction), random))
        return found, [*words, UNKNOWN, SILENCE], root

    def divide(self, found: dict[str, Recordings]) -> dict[str, Recordings]:
        return found

    def _refuse_lists(
        self, listed: Collection[str], found: dict[str, Recordings], others: dict[str, Recordings], root: Path
    ) -> None:
        """Raise UserError if a file of the lists is missing."""
        every = {name for part in (found, others) for each in part.values() for name in each.names}
        if missing := sorted(set(listed) - every):
            raise UserError(
                f"data.root: {root} lacks {len(missing):,} recordings of its lists, such as {missing[0]}. Expected the"
                " folder of Google Speech Commands; download it again."
            )

    def _silence(self, root: Path, split: str, num: int, random: np.random.Generator) -> Recordings:
        """Parts of one second of the background noise, each with a loudness in [0, 1)."""
        folder = root / NOISE
        paths = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES] if folder.is_dir() else []
        if num and not paths:
            raise UserError(f"data.root: {folder} has no recordings; they are needed for the class {SILENCE}.")
        noises = [read_audio(content_of(str(path)), self.sample_rate, 600.0).waveform for path in paths if num]
        made = Recordings([], [], [], [])
        for i in range(num):
            noise = noises[random.integers(len(noises))]
            start = random.integers(max(1, len(noise) - self.sample_rate))
            part = noise[start : start + self.sample_rate] * np.float32(random.random())
            _add(made, part, f"{SILENCE}/{split}_{i}", len(self.words or ()) + 1)
        return made


def given_root(root: str | None) -> Path:
    """The folder of `data.root`.

    Raises:
        UserError: it is not given, or is not a folder.
    """
    if root is None:
        raise UserError("data.root: expected the folder of your recordings; set data.root=PATH.")
    path = expanded(root)
    if not path.is_dir():
        raise UserError(f"data.root: {path} is not a folder. Expected one that holds a folder of recordings per class.")
    return path


def _add(recordings: Recordings, item: str | np.ndarray, name: str, label: int) -> None:
    recordings.items.append(item)
    recordings.names.append(name)
    recordings.label.append(label)
    assert recordings.group is not None
    recordings.group.append(name.rpartition("/")[2].partition("_nohash_")[0])


def _append(recordings: Recordings, more: Recordings) -> None:
    for item, name, label in zip(more.items, more.names, more.label, strict=True):
        _add(recordings, item, name, label)


def _some(recordings: Recordings, num: int, random: np.random.Generator) -> Recordings:
    return recordings.subset(sorted(random.permutation(len(recordings))[:num].tolist()))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"data.root: {path.parent} has no {path.name}. Expected the folder of Google Speech Commands.")
    lines = content_of(str(path)).decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
