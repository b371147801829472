"""Images in a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt

from lab.data import tiny
from lab.data.batches import Batches
from lab.data.class_folders import ClassFiles, read_class_folders, relative
from lab.data.decoded import DecodedImages, decoded
from lab.data.image_files import ImageFiles, unreadable
from lab.data.images import ImageData
from lab.data.split import pattern_groups
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.features.read_image import suffixes


class ImageFolder(ImageData):
    """Images in a folder for each class.

    The folders are directly in `root`, and the splits are drawn from each class; or they are in `root/train`,
    `root/val` and `root/test`. A missing val or test folder is drawn from train. Hidden files are left out.

    Args:
        root: the folder.
        image_size: the shorter side is resized to this many pixels, then the image is cropped to its centre square.
        num_channels: 3: colour; 1: greyscale.
        val_fraction: share of each class in the validation split, if there is no val folder.
        test_fraction: share of each class in the test split, if there is no test folder.
        group: a regular expression. Files with the same match in their path below `root` are in one split.
        skip_unreadable: leave out images that can't be decoded; false: they are an error.
        cache: decode every image once, at the start, and keep it in memory: image_size² · num_channels bytes each. If
            that is more than half of the free memory, a line says so, and each epoch decodes the images.
    """

    num_for_statistics = 1000  # each image has to be decoded

    def __init__(
        self,
        root: str | None,
        image_size: PositiveInt,
        num_channels: Literal[1, 3],
        val_fraction: Share,
        test_fraction: Share,
        group: str | None = None,
        skip_unreadable: bool = False,
        cache: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cache, self.group, self.skip_unreadable = cache, group, skip_unreadable
        self.root, self.image_size, self.num_channels = root, image_size, num_channels
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Batches], list[str]]:
        if self.root is None and not self.tiny:
            raise UserError("data.root: expected the folder of your images; set data.root=PATH.")
        root = tiny.image_folder() if self.tiny else expanded(self.root or "")
        found, class_names = read_class_folders(root, suffixes(), "images", self.report)
        every = [path for files in found.values() for path in files.paths]
        memory = decoded(every, self.num_channels, self.image_size) if self.cache else None
        if memory is not None:
            found = self._readable(found, memory.reasons, root)
        elif not self.is_checked or self.skip_unreadable:
            found = self._readable(found, unreadable(every, self.num_channels, self.image_size), root)
        splits: dict[str, Batches] = {name: self._files(files, class_names, memory) for name, files in found.items()}
        train = splits["train"]
        assert isinstance(train, ImageFiles)
        assert train.label is not None
        missing = {name: share for name, share in self.fractions.items() if name not in found}
        num_test = len(splits.get("test", ()))
        group = pattern_groups(self.group, train.paths, found["train"].folder)
        parts = self.draw(train.label, missing, group, num_test)
        splits |= {name: train.subset(index) for name, index in parts.items()}
        self.names = {
            name: [relative(path, root) for path in split.paths]
            for name, split in splits.items() if isinstance(split, ImageFiles)
        }  # fmt: skip
        return splits, class_names

    def _readable(self, found: dict[str, ClassFiles], bad: dict[str, str], root: Path) -> dict[str, ClassFiles]:
        """The files without the `bad` ones; these raise UserError unless `skip_unreadable` is set."""
        num = sum(len(files.paths) for files in found.values())
        reasons = [f"{path} is not a readable image ({reason})" for path, reason in bad.items()]
        self.report.refuse("images", reasons, num, root, self.skip_unreadable)
        kept = {}
        for name, files in found.items():
            pairs = [(path, label) for path, label in zip(files.paths, files.label, strict=True) if path not in bad]
            kept[name] = ClassFiles(files.folder, [path for path, _ in pairs], [label for _, label in pairs])
        return kept

    def _files(self, files: ClassFiles, class_names: Sequence[str], memory: DecodedImages | None) -> ImageFiles:
        number = {name: i for i, name in enumerate(class_names)}
        label = torch.tensor([number[name] for name in files.label], dtype=torch.int64)
        return ImageFiles(files.paths, label, self.num_channels, self.image_size, memory)
