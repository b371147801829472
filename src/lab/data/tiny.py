"""Generated data sets in the real formats. `data.tiny=true` reads them with the code for the real data."""

import atexit
import functools
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = {"train": 160, "test": 40}


def torchvision_images(dataset: Any) -> tuple[Path, Any]:
    """The root of a tiny data set in the format of a torchvision class, and the class that reads it."""
    name = dataset.__name__
    if "MNIST" in name:
        return written(_write_mnist, dataset), dataset
    # torchvision compares checksums before it unpickles a CIFAR file; the tiny data set has no checksums
    train, test = dataset.train_list[0][0], dataset.test_list[0][0]
    lists = {"train_list": [[train, None]], "test_list": [[test, None]], "meta": dataset.meta | {"md5": None}}
    return written(_write_cifar, dataset), type(f"Tiny{name}", (dataset,), lists)


def image_folder() -> Path:
    """A folder with 20 images of each of three classes."""
    return written(_write_folder)


@functools.cache
def written(write: Callable[..., None], *arguments: Any) -> Path:
    """A new folder that `write` fills. It is deleted when the process ends."""
    root = Path(tempfile.mkdtemp(prefix="lab-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write(root, *arguments)
    return root


def _images(num: int, num_classes: int, side: int, num_channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy blobs, whose position is the class: (N, H, W, C) uint8 images and (N,) labels, balanced."""
    random = np.random.default_rng(seed)
    label = np.arange(num) % num_classes
    angle = 2 * np.pi * label / num_classes
    y, x = np.mgrid[:side, :side] / side - 0.5
    distance = (x - 0.35 * np.cos(angle)[:, None, None]) ** 2 + (y - 0.35 * np.sin(angle)[:, None, None]) ** 2
    image = 200 * np.exp(-40 * distance)[..., None] + random.normal(25, 10, (num, side, side, num_channels))
    return image.clip(0, 255).astype(np.uint8), label


def _write_mnist(root: Path, dataset: Any) -> None:
    folder = root / dataset.__name__ / "raw"
    folder.mkdir(parents=True)
    for seed, (stem, num) in enumerate({"train": SIZES["train"], "t10k": SIZES["test"]}.items()):
        image, label = _images(num, 10, 28, 1, seed)
        header = np.array([0x803, num, 28, 28], ">i4").tobytes()
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + image.tobytes())
        header = np.array([0x801, num], ">i4").tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(header + label.astype(np.uint8).tobytes())


def _write_cifar(root: Path, dataset: Any) -> None:
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    train, test, meta = dataset.train_list[0][0], dataset.test_list[0][0], dataset.meta
    key, num_classes, per_class = ("labels", 10, 4) if train == "data_batch_1" else ("fine_labels", 100, 2)
    for seed, (name, num) in enumerate({train: 4 * per_class * num_classes, test: per_class * num_classes}.items()):
        image, label = _images(num, num_classes, 32, 3, seed)
        content = {"data": image.transpose(0, 3, 1, 2).reshape(num, -1), key: label.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    names = [f"class {i}" for i in range(num_classes)]
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))


def _write_folder(root: Path) -> None:
    image, label = _images(60, 3, 40, 3, seed=0)
    for i, (pixels, value) in enumerate(zip(image, label, strict=True)):
        folder = root / "abc"[value]
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
