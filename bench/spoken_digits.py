"""The score that a net for spoken digits must beat: MFCC in ten time segments and an SVM, on the splits of lab.

    python bench/spoken_digits.py ROOT      ROOT: the folder of the Free Spoken Digit Dataset

It trains on all recordings that are not in the test split, and prints the accuracy for each unknown speaker, and on the
official test set.
"""

import sys
import time
from itertools import pairwise

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from lab.data.spoken_digits import SpokenDigits
from lab.nets.log_mel import LogMel

RATE, NUM_MELS, NUM_MFCC, NUM_SEGMENTS = 8000, 40, 20, 10
FRONT_END = LogMel(RATE, NUM_MELS)
COSINES = torch.cos(np.pi / NUM_MELS * (torch.arange(NUM_MELS)[:, None] + 0.5) * torch.arange(NUM_MFCC))


def features(waveform: np.ndarray) -> np.ndarray:
    """(T,) waveform -> MFCC averaged over ten segments of equal length, and their deviations over time."""
    mfcc = (FRONT_END.log_mel(torch.from_numpy(waveform)[None])[0].T @ COSINES).numpy()
    mfcc = mfcc - mfcc.mean(0)
    edges = [len(mfcc) * i // NUM_SEGMENTS for i in range(NUM_SEGMENTS + 1)]
    means = [mfcc[start : max(start + 1, end)].mean(0) for start, end in pairwise(edges)]
    return np.concatenate([*means, mfcc.std(0)])


def table(root: str, split: str, fold: int | None) -> tuple[str, float]:
    """The test speakers of a split, and the accuracy."""
    folds = {"cv": 6, "fold": fold} if fold is not None else {}
    data = SpokenDigits(root=root, val_fraction=0.06, test_fraction=0.17, split=split, sample_rate=RATE,
                        max_seconds=2.5, batch_size=64, **folds)  # fmt: skip
    data.setup("fit")
    x = {name: np.stack([features(clip) for clip in each.clips]) for name, each in data.splits.items()}
    y = {name: each.label.numpy() for name, each in data.splits.items()}
    known = [np.concatenate([of["train"], of["val"]]) for of in (x, y)]
    model = make_pipeline(StandardScaler(), SVC(C=10)).fit(*known)
    speakers = sorted({name.split("_")[1] for name in data.names["test"]})
    return ", ".join(speakers), float(model.score(x["test"], y["test"]))


if __name__ == "__main__":
    start, scores = time.process_time(), []
    for fold in range(6):
        speaker, score = table(sys.argv[1], "speakers", fold)
        scores.append(score)
        print(f"{speaker:<60}{score:.3f}")
    print(f"{'mean of six unknown speakers':<60}{np.mean(scores):.3f}")
    speakers, score = table(sys.argv[1], "takes", None)
    print(f"{'official test set: ' + speakers:<60}{score:.3f}")
    print(f"{time.process_time() - start:.0f} CPU-seconds")
