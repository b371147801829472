"""The scores that nets for spoken digits must beat: MFCC in ten time segments and an SVM, on the splits of lab.

    python bench/spoken_digits.py ROOT          ROOT: the folder of the Free Spoken Digit Dataset
    python bench/spoken_digits.py ROOT RUN      RUN: a run of experiment=speech_commands

The SVM learns all recordings that are not in the test split. The first command prints its accuracy for each unknown
speaker, and on the official test set. The second one prints its accuracy and that of the run for the synthetic voices
of the test split, and for all recordings of real voices, of which both have heard none.
"""

import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lab import runs
from lab.data.base import Data
from lab.data.spoken_digits import SpokenDigits
from lab.nets.log_mel import LogMel

RATE, NUM_MELS, NUM_MFCC, NUM_SEGMENTS = 8000, 40, 20, 10
TRIM = 30.0  # dB, as experiment=spoken_digits
FRONT_END = LogMel(RATE, NUM_MELS)
COSINES = torch.cos(np.pi / NUM_MELS * (torch.arange(NUM_MELS)[:, None] + 0.5) * torch.arange(NUM_MFCC))


def features(waveform: np.ndarray) -> np.ndarray:
    """(T,) waveform -> MFCC averaged over ten segments of equal length, and their deviations over time."""
    mfcc = (FRONT_END.log_mel(torch.from_numpy(waveform)[None])[0].T @ COSINES).numpy()
    mfcc = mfcc - mfcc.mean(0)
    edges = [len(mfcc) * i // NUM_SEGMENTS for i in range(NUM_SEGMENTS + 1)]
    means = [mfcc[start : max(start + 1, end)].mean(0) for start, end in pairwise(edges)]
    return np.concatenate([*means, mfcc.std(0)])


def samples(data: Data, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """The features and the classes of some splits."""
    clips: list[Any] = [clip for name in splits for clip in data.splits[name].clips]
    return np.stack([features(clip) for clip in clips]), torch.cat([data.splits[name].label for name in splits]).numpy()


def fitted(data: Data) -> Any:
    return make_pipeline(StandardScaler(), SVC(C=10)).fit(*samples(data, "train", "val"))


def digits(root: str, split: str, **more: Any) -> SpokenDigits:
    data = SpokenDigits(root=root, val_fraction=0.06, test_fraction=0.17, split=split, sample_rate=RATE,
                        max_seconds=2.5, batch_size=64, **more)  # fmt: skip
    data.setup("fit")
    return data


def of_real_voices(root: str) -> None:
    scores = []
    for fold in range(6):
        data = digits(root, "speakers", cv=6, fold=fold, trim=TRIM)
        scores.append(fitted(data).score(*samples(data, "test")))
        say(", ".join(sorted({name.split("_")[1] for name in data.names["test"]})), scores[-1])
    say("mean of six unknown speakers", float(np.mean(scores)))
    data = digits(root, "takes", trim=TRIM)
    say("official test set", fitted(data).score(*samples(data, "test")))


def of_synthetic_voices(root: str, folder: str) -> None:
    _, data, task = runs.load(folder, test_split=True)
    model, real = fitted(data), digits(root, "speakers", trim=data.trim)
    say("SVM: unknown synthetic voices", model.score(*samples(data, "test")))
    say("SVM: all real voices", model.score(*samples(real, "train", "val", "test")))
    say("run: unknown synthetic voices", accuracy(task.net.eval(), data, "test"))
    say("run: all real voices", accuracy(task.net.eval(), real, "train", "val", "test"))


@torch.inference_mode()
def accuracy(net: Any, data: Data, *splits: str) -> float:
    right = []
    for split in map(data.splits.get, splits):
        for index in torch.arange(len(split)).split(100):
            batch = split.__getitems__(index.tolist())
            right.append(net(batch["waveform"], batch["waveform_length"]).argmax(1) == batch["label"])
    return torch.cat(right).float().mean().item()


def say(what: str, score: float) -> None:
    print(f"{what:<40}{score:.3f}")


if __name__ == "__main__":
    start = time.process_time()
    of_synthetic_voices(*sys.argv[1:]) if len(sys.argv) > 2 else of_real_voices(sys.argv[1])
    print(f"{time.process_time() - start:.0f} CPU-seconds")
