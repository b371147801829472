"""MNIST's file format, read and written in a few lines, for the scripts that import nothing of lab."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

STEMS = {"train": "train", "test": "t10k"}


def load(root: str, split: str) -> "tuple[Tensor, Tensor]":
    """(N, 1, 28, 28) uint8 images and (N,) labels of the Fashion-MNIST below `root`."""
    import torch  # not in the bench itself, whose memory its children would be measured with

    stem = Path(root) / f"FashionMNIST/raw/{STEMS[split]}"
    image = np.fromfile(f"{stem}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    label = np.fromfile(f"{stem}-labels-idx1-ubyte", np.uint8)[8:]
    return torch.from_numpy(image), torch.from_numpy(label).long()


def write(root: Path, num: int) -> None:
    """A set of `num` training and `num` / 8 test images of noise."""
    folder = root / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, size in {"train": num, "test": num // 8}.items():
        image = random.integers(0, 256, (size, 28, 28), np.uint8)
        header = np.array([0x803, size, 28, 28], ">i4").tobytes()
        (folder / f"{STEMS[split]}-images-idx3-ubyte").write_bytes(header + image.tobytes())
        header = np.array([0x801, size], ">i4").tobytes()
        label = (np.arange(size) % 10).astype(np.uint8)
        (folder / f"{STEMS[split]}-labels-idx1-ubyte").write_bytes(header + label.tobytes())
