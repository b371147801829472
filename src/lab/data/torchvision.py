"""Small data sets of torchvision for image classification, such as MNIST and CIFAR."""

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torchvision import datasets

from lab.data import tiny
from lab.data.batches import Batches, Tensors
from lab.data.classes import refuse_wrong_labels
from lab.data.images import ImageData
from lab.engine.constraints import Share
from lab.engine.errors import UserError, one_line
from lab.engine.files import atomic_write, expanded

DEBIAN = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}  # the package dataset-fashion-mnist


class TorchvisionImages(ImageData):
    """A small classification data set of torchvision, in memory. The official test set is the test split.

    Args:
        name: the class in `torchvision.datasets`.
        root: the folder of the files. Missing files are downloaded to it.
        val_fraction: share of the training images of each class in the validation split.
    """

    def __init__(
        self,
        name: Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100"],
        root: str,
        val_fraction: Share,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset: Any = getattr(datasets, name)
        self.root, self.val_fraction = expanded(root), val_fraction

    def prepare_data(self) -> None:
        if self.tiny or self.splits:
            return
        name = self.dataset.__name__
        raw, debian = self.root / name / "raw", DEBIAN.get(name)
        files = [raw / Path(file).stem for file, _ in getattr(self.dataset, "resources", ())]
        try:
            if debian:
                _unpack(debian, [file for file in files if not file.is_file()])
            if not files or not all(file.is_file() for file in files):
                self.dataset(self.root, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            package = f"install Debian's package dataset-fashion-mnist, which fills {debian}, " if debian else ""
            raise UserError(
                f"data: {name} is not in {self.root} and could not be downloaded ({one_line(error)})."
                f" Connect to the network, {package}or set data.root=PATH to the folder of the files;"
                " data.tiny=true needs no files."
            ) from error

    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        root, dataset = tiny.torchvision_images(self.dataset) if self.tiny else (self.root, self.dataset)
        try:
            official = {train: dataset(root, train=train) for train in (True, False)}
        except (OSError, RuntimeError, ValueError, AssertionError) as error:  # torchvision converts no errors
            raise UserError(
                f"data: {root / dataset.__name__ / 'raw'} is damaged: a file is truncated, or has another format."
                " Remove the folder to download it again."
            ) from error
        train, test = (_in_memory(official[part], name) for part, name in ((True, "train"), (False, "test")))
        parts = self.draw(train.tensors["label"], {"val": self.val_fraction}, num_test=len(test))
        splits: dict[str, Batches] = {name: train.subset(index) for name, index in parts.items()}
        return {"test": test} | splits, list(official[True].classes)


def _unpack(source: Path, files: Sequence[Path]) -> None:
    """Decompress those of these files that a folder has as .gz. Each file is written completely or not at all."""
    for file in files:
        packed = source / f"{file.name}.gz"
        if packed.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary, gzip.open(packed) as content, open(temporary, "wb") as target:
                shutil.copyfileobj(content, target)


def _in_memory(dataset: Any, name: str) -> Tensors:
    image = torch.as_tensor(dataset.data)
    image = image[:, None] if image.ndim == 3 else image.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    label = torch.as_tensor(dataset.targets)
    if len(image) != len(label):
        raise UserError(f"data: {name} has {len(image)} images and {len(label)} labels.")
    refuse_wrong_labels(name, label.tolist(), len(dataset.classes))
    return Tensors(image=image, label=label)
