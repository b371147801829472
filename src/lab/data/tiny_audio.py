"""Generated recordings in the real formats. `data.tiny=true` reads them with the code for the real data."""

from itertools import product
from pathlib import Path

import numpy as np

from lab.data.tiny import written
from lab.features.read_audio import wav

RATE = 8000
SPEAKERS = {"ada": 0.9, "ben": 1.0, "eve": 1.12, "kim": 1.25, "leo": 1.05, "max": 0.95}  # factors of all frequencies
WORDS = {  # the formants at the beginning and the end of each half, in Hz
    "oh": ((500, 350, 900, 700), (350, 300, 700, 2200)),
    "ya": ((300, 700, 2300, 1200), (700, 750, 1200, 1100)),
    "we": ((320, 300, 700, 2200), (300, 280, 2200, 2500)),
    "no": ((400, 500, 1500, 900), (500, 350, 900, 800)),
}


def class_folder() -> Path:
    """A folder with 24 recordings of each of three words, named `<speaker>_<number>.wav`."""
    return written(_write_folder)


def spoken_digits() -> Path:
    """Recordings named `<digit>_<speaker>_<take>.wav`, as in the Free Spoken Digit Dataset: three words, six takes."""
    return written(_write_digits)


def google_commands() -> Path:
    """A folder in the layout of Google Speech Commands: four words, lists of two splits, and background noise."""
    return written(_write_google)


def word(name: str, pitch: float, take: int) -> np.ndarray:
    """(T,) float32: the sweep of two formants over a buzz, in noise. The take changes length, loudness and noise.

    Args:
        name: one of WORDS.
        pitch: a factor of all frequencies.
        take: the seed.
    """
    random = np.random.default_rng([take, *name.encode(), int(1000 * pitch)])
    parts = []
    for start_1, end_1, start_2, end_2 in WORDS[name]:
        num = int(RATE * random.uniform(0.08, 0.16))
        first, second = np.linspace(start_1, end_1, num), np.linspace(start_2, end_2, num)
        parts.append(np.stack([first, second]) * pitch)
    formants = np.concatenate(parts, 1)
    phase = 2 * np.pi * np.cumsum(formants, 1) / RATE
    buzz = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 120 * pitch * np.arange(phase.shape[1]) / RATE))
    sweep = (np.sin(phase) * np.array([[1.0], [0.6]])).sum(0) * buzz * np.hanning(phase.shape[1])
    noisy = sweep * random.uniform(0.2, 0.5) + random.normal(0, 0.005, len(sweep))
    return noisy.astype(np.float32)


def _write(path: Path, name: str, speaker: str, take: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav(word(name, SPEAKERS[speaker], take), RATE))


def _write_folder(root: Path) -> None:
    for name, speaker, take in product(list(WORDS)[:3], SPEAKERS, range(4)):
        _write(root / name / f"{speaker}_{take}.wav", name, speaker, take)


def _write_digits(root: Path) -> None:
    for (digit, name), speaker, take in product(enumerate(list(WORDS)[:3]), SPEAKERS, range(8)):
        _write(root / "recordings" / f"{digit}_{speaker}_{take}.wav", name, speaker, take)


def _write_google(root: Path) -> None:
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    of = {"kim": "validation_list.txt", "leo": "validation_list.txt", "max": "testing_list.txt"}
    for name, speaker, take in product(WORDS, SPEAKERS, range(4)):
        path = f"{name}/{speaker}_nohash_{take}.wav"
        _write(root / path, name, speaker, take)
        if speaker in of:
            lists[of[speaker]].append(path)
    for list_name, paths in lists.items():
        (root / list_name).write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    noise = np.random.default_rng(0).normal(0, 0.05, 4 * RATE).astype(np.float32)
    (root / "_background_noise_").mkdir()
    (root / "_background_noise_/hiss.wav").write_bytes(wav(noise, RATE))
    (root / "_background_noise_/README.md").write_text("Made up.\n", encoding="utf-8")
