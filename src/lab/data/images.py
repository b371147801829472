"""Images and their classes: what all data modules for image classification share, and scikit-learn's digits."""

from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from lab.data.augment import Augment
from lab.data.base import Data
from lab.data.batches import Batch, Batches, Tensors
from lab.data.classes import check_classes, classification_facts
from lab.data.facts import Facts
from lab.data.image_files import digests_of, in_memory, labels_of
from lab.data.pixels import channel_statistics, normalise
from lab.engine.constraints import Share
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.labels import ClassLabel


class ImageData(Data):
    """Batches of `image` (B, C, H, W), `label` (B,) and `index` (B,).

    Images are copied to the device as uint8 and become floats there. Training images are changed by `augment`. All are
    normalised by the mean and standard deviation of the training split.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"image": Image, "label": ClassLabel}
    num_for_statistics = 1_000_000  # training images from which mean and standard deviation are computed

    def __init__(self, augment: Augment | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augment = augment

    @abstractmethod
    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        """Read the splits and the names of the classes."""

    def read(self) -> tuple[dict[str, Batches], Facts]:
        splits, class_names = self.read_splits()
        labels = {name: labels_of(split).tolist() for name, split in splits.items()}
        class_names = check_classes(labels, class_names)
        contents = {name: digests_of(split) for name, split in splits.items()}
        self.report.describe(contents, self.names)
        self.report.count_classes(labels, class_names)
        train, num = splits["train"], len(splits["train"])
        some = train.__getitems__(range(0, num, -(-num // self.num_for_statistics)))["image"]  # at equal distances
        image = Image(some.shape[1], some.shape[2], *channel_statistics(some))
        facts = classification_facts({"image": image}, contents, labels, class_names)
        return {name: in_memory(split) for name, split in splits.items()}, facts

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        if "image" not in batch:  # the inputs of a generator
            return batch
        image = batch["image"]  # 0 to 255
        image = image if image.is_floating_point() else image.float()
        if self.augment and self.trainer is not None and self.trainer.training:
            image = self.augment(image, batch["index"], self.seed, self.trainer.current_epoch)
        return batch | {"image": normalise(image, *self.facts.features["image"].statistics())}

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> Any:
        from lab.figures.images import images  # importing matplotlib takes half a second

        return images(batch["image"] / 255, captions, title)

    def figures(self, batch: Batch) -> dict[str, Any]:
        from lab.figures.images import images

        image = batch["image"].float().cpu()
        mean, std = (torch.tensor(share)[:, None, None] for share in self.facts.features["image"].statistics())
        names = [self.facts.features["label"].class_names[i] for i in batch["label"].tolist()]
        return {"samples": images(image * std + mean, names, "training samples as the net sees them")}


class Digits(ImageData):
    """The 8×8 digits of scikit-learn (the test part of UCI's; Alpaydin & Kaynak 1998), resized to `image_size`."""

    def __init__(self, image_size: PositiveInt, val_fraction: Share, test_fraction: Share, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size, self.fractions = image_size, {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        spec = find_spec("sklearn")  # locates the package; importing it takes two seconds
        assert spec is not None
        assert spec.origin is not None
        digits = np.loadtxt(Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.int64)
        level, label = torch.from_numpy(digits[:, :-1]), torch.from_numpy(digits[:, -1])
        image = (level.double() * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)  # 0..16 -> 0..255
        if self.tiny:
            image, label = image[:200], label[:200]
        image = F.interpolate(image, [self.image_size, self.image_size], mode="bilinear", antialias=True)
        everything = Tensors(image=image, label=label)
        parts = self.draw(label, self.fractions)
        return {name: everything.subset(index) for name, index in parts.items()}, list(map(str, range(10)))
