"""Images and their classes: the data modules for image classification."""

import gzip
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as TF

from lab.data import tiny
from lab.data.augment import Augment
from lab.data.base import Batch, Batches, Data, Tensors
from lab.data.facts import Facts
from lab.data.image_files import ImageFiles
from lab.data.report import digest, fingerprint
from lab.data.split import refuse_one_class
from lab.engine.constraints import Share
from lab.engine.display import in_utf8
from lab.engine.errors import UserError, one_line
from lab.engine.files import atomic_write, expanded
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.labels import ClassLabel

DEBIAN = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}  # the package dataset-fashion-mnist


class ImageData(Data):
    """Batches of `image` (B, C, H, W), `label` (B,) and `index` (B,).

    Images travel to the device as uint8, and become floats there: augmented in training, then normalised by the
    training split's mean and standard deviation.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"image": Image, "label": ClassLabel}
    num_for_statistics = 1_000_000  # training images whose mean and standard deviation are taken
    cache = False  # decode all files at the start, and keep them

    def __init__(self, augment: Augment | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment = augment

    @abstractmethod
    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        """The splits, and the names of the classes."""

    def read(self) -> tuple[dict[str, Batches], Facts]:
        splits, folders = self.read_splits()
        class_names = list(map(in_utf8, folders))
        refuse_one_class(class_names)
        for name, split in splits.items():
            if not len(split):
                raise UserError(f"data: {name} has no samples.")
            _check_labels(name, _labels(split), class_names)
        contents = {name: _contents(split) for name, split in splits.items()}
        labels = {name: _labels(split).tolist() for name, split in splits.items()}
        self.report.describe(contents, self.names)
        self.report.count_classes(labels, class_names)
        image = _some(splits["train"], self.num_for_statistics)
        mean, std = _statistics(image)
        facts = Facts(
            {"image": Image(image.shape[1], image.shape[2], mean, std), "label": ClassLabel(class_names)},
            num_samples={name: len(split) for name, split in splits.items()},
            fingerprint=fingerprint(contents, labels, class_names),
        )
        if self.cache:
            splits = {name: _decoded(split, self.num_workers, self.worker_timeout) for name, split in splits.items()}
        return splits, facts

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        if "image" not in batch:  # a generator's inputs
            return batch
        image = batch["image"]  # 0 to 255
        image = image if image.is_floating_point() else image.float()
        if self.augment and self.trainer is not None and self.trainer.training:
            image = self.augment(image, batch["index"], self.seed, self.trainer.current_epoch)
        levels = _pixel_levels if torch.compiler.is_compiling() else _kept_pixel_levels  # a trace's are no numbers
        mean, std = (levels(share, image.dtype, image.device) for share in self._mean_and_std())
        return batch | {"image": (image - mean).div_(std)}

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in [0, 1]."""
        image = self.facts.features["image"]
        return tuple(image.mean or [0.0] * image.num_channels), tuple(image.std or [1.0] * image.num_channels)

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        from lab.figures.images import images  # matplotlib takes half a second

        return images(batch["image"] / 255, captions, title)

    def figures(self, batch: Batch) -> dict[str, Any]:
        from lab.figures.images import images

        image = batch["image"].float().cpu()
        mean, std = (torch.tensor(share)[:, None, None] for share in self._mean_and_std())
        names = [self.facts.features["label"].class_names[i] for i in batch["label"].tolist()]
        return {"samples": images(image * std + mean, names, "training samples as the net sees them")}


class Digits(ImageData):
    """Scikit-learn's 8×8 digits (the test part of UCI's; Alpaydin & Kaynak 1998), enlarged to `image_size`."""

    def __init__(
        self,
        image_size: PositiveInt,
        val_fraction: Share,
        test_fraction: Share,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        spec = find_spec("sklearn")  # found, not imported: it would take two seconds
        assert spec is not None
        assert spec.origin is not None
        digits = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.int64)
        level, label = torch.from_numpy(digits[:, :-1]), torch.from_numpy(digits[:, -1])
        image = (level.double() * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)  # 0..16 -> 0..255
        if self.tiny:
            image, label = image[:200], label[:200]
        image = TF.resize(image, [self.image_size, self.image_size], antialias=True)
        everything = Tensors(image=image, label=label)
        parts = self.draw(label, self.fractions)
        return {name: everything.subset(index) for name, index in parts.items()}, list(map(str, range(10)))


class TorchvisionImages(ImageData):
    """A small classification set of torchvision, held in memory; its official test set is the test split.

    Args:
        name: the class in `torchvision.datasets`.
        root: where the files are, or are downloaded to.
        val_fraction: share of each class's training images that validate instead.
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
                f" Connect to the network, {package}or say where the files are with data.root=PATH;"
                " data.tiny=true needs no files."
            ) from error

    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        root, dataset = tiny.torchvision_images(self.dataset) if self.tiny else (self.root, self.dataset)
        try:
            official = {train: dataset(root, train=train) for train in (True, False)}
        except (OSError, RuntimeError, ValueError, AssertionError) as error:  # torchvision lets through what is raised
            raise UserError(
                f"data: {root / dataset.__name__ / 'raw'} is damaged: a file is cut short, or of another format."
                " Remove the folder, and it is fetched anew."
            ) from error
        train, test = (_in_memory(official[part], name) for part, name in ((True, "train"), (False, "test")))
        parts = self.draw(train.tensors["label"], {"val": self.val_fraction}, num_test=len(test))
        splits: dict[str, Batches] = {name: train.subset(index) for name, index in parts.items()}
        return {"test": test} | splits, list(official[True].classes)


def _unpack(source: Path, files: Sequence[Path]) -> None:
    """Unpack what a folder has of these files, gzipped; each is there whole or not at all."""
    for file in files:
        packed = source / f"{file.name}.gz"
        if packed.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary, gzip.open(packed) as content, open(temporary, "wb") as target:
                shutil.copyfileobj(content, target)


def _decoded(files: Batches, num_workers: int, timeout: float) -> Tensors:
    assert isinstance(files, ImageFiles)
    assert files.label is not None
    return Tensors(image=files.decode(num_workers, timeout), label=files.label)


def _labels(split: Batches) -> Tensor:
    label = split.tensors["label"] if isinstance(split, Tensors) else getattr(split, "label", None)
    assert label is not None
    return label


def _check_labels(name: str, label: Tensor, class_names: list[str]) -> None:
    """Raises UserError where a label is that of no class: a GPU would only say so by giving up."""
    wrong = label[(label < 0) | (label >= len(class_names))]
    if len(wrong):
        raise UserError(
            f"data: {name} has the label {wrong[0]}; there are {len(class_names)} classes: 0 to {len(class_names) - 1}."
        )


def _in_memory(dataset: Any, name: str) -> Tensors:
    image = torch.as_tensor(dataset.data)
    image = image[:, None] if image.ndim == 3 else image.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    label = torch.as_tensor(dataset.targets)
    if len(image) != len(label):
        raise UserError(f"data: {name} has {len(image)} images and {len(label)} labels.")
    _check_labels(name, label, list(dataset.classes))
    return Tensors(image=image, label=label)


def _pixel_levels(share: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Shares of white, one for each channel -> (C, 1, 1) levels of 0 to 255."""
    return 255 * torch.tensor(share, dtype=dtype, device=device)[:, None, None]


@cache
def _kept_pixel_levels(share: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """They are kept, for a copy to a GPU is a wait; evaluation may ask first, and training needs their gradients."""
    with torch.inference_mode(False):
        return _pixel_levels(share, dtype, device)


def _statistics(image: Tensor) -> tuple[list[float], list[float]]:
    """The mean and standard deviation of each channel of (N, C, H, W) images, in [0, 1]."""
    level = torch.linspace(0, 1, 256, dtype=torch.float64)
    share = torch.stack([image[:, c].flatten().bincount(minlength=256) for c in range(image.shape[1])]).double()
    share = share / share.sum(1, keepdim=True)  # (C, 256) of the pixels at each level
    mean = share @ level
    std = (share @ level**2 - mean**2).sqrt().clamp(min=1e-3)  # one tone everywhere is no reason to divide by zero
    return mean.tolist(), std.tolist()


def _some(split: Batches, num_samples: int) -> Tensor:
    """At most so many images of a split, at equal distances."""
    return split.__getitems__(list(range(0, len(split), -(-len(split) // num_samples))))["image"]


def _contents(split: Batches) -> list[bytes]:
    """A digest of each image: of its pixels in memory, or of its file."""
    if isinstance(split, Tensors):
        return [digest(image.tobytes()) for image in split.tensors["image"].numpy()]
    assert isinstance(split, ImageFiles)
    return split.contents()
