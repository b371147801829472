"""Your own images: a folder for each class."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt

from lab.data import tiny
from lab.data.base import Batches
from lab.data.files import files_below
from lab.data.image_files import ImageFiles, unreadable
from lab.data.images import ImageData
from lab.data.read_image import suffixes
from lab.data.split import class_folders, described, groups_of, split_folders, strays
from lab.errors import UserError
from lab.folder import expanded
from lab.types import Share

MOST_LISTED = 20  # files in an error


class ImageFolder(ImageData):
    """Your own images: a folder for each class.

    They lie directly in `root`, and are split by class and `split_seed`, or in `root/train`, `root/val` and
    `root/test`; a val or test folder that is missing is split off train. Names that begin with a dot are left out.

    Args:
        root: the folder.
        image_size: the shorter side is resized to this many pixels, then the centre square is taken.
        num_channels: 3 reads colour, 1 grey.
        val_fraction: share of each class that validates, where there is no val folder.
        test_fraction: share of each class that tests, where there is no test folder.
        group: a regular expression; files in whose path below `root` it finds the same stay in one split.
        skip_unreadable: leave out the images that can't be decoded, in place of refusing them.
        cache: decode every image once, at the start, and hold it in memory: image_size² · num_channels bytes each.
    """

    num_for_statistics = 1000  # each has to be decoded

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
            raise UserError("data.root: say which folder holds your images, with data.root=PATH.")
        root = tiny.image_folder() if self.tiny else expanded(self.root or "")
        if not root.is_dir():
            raise UserError(f"data.root: {root} is not a folder. It holds a folder of images for each class.")
        folders = split_folders(root)
        class_names = class_folders(folders["train"])
        if not class_names:
            raise UserError(
                f"data.root: {folders['train']} has no folders. It holds a folder of images for each class."
            )
        paths = {name: self._found(name, folder, class_names, root) for name, folder in folders.items()}
        self._report(folders, paths, root)
        if self.facts is None or self.skip_unreadable:  # a finished run's were decoded before
            paths = self._without_unreadable(paths, root)
        splits: dict[str, Batches] = {
            name: self._files(found, folders[name], class_names) for name, found in paths.items()
        }
        train = splits["train"]
        assert isinstance(train, ImageFiles)
        assert train.label is not None
        missing = {name: share for name, share in self.fractions.items() if name not in folders}
        parts = self.draw(train.label, missing, self._groups(train.paths, folders["train"]))
        splits |= {name: train.subset(index) for name, index in parts.items()}
        self.names = {
            name: [_relative(path, root) for path in split.paths]
            for name, split in splits.items() if isinstance(split, ImageFiles)
        }  # fmt: skip
        return splits, class_names

    def _found(self, split: str, folder: Path, class_names: Sequence[str], root: Path) -> list[str]:
        """The images in a folder of class folders; train has some of each class."""
        own = class_folders(folder)
        if extra := sorted(set(own) - set(class_names)):
            raise UserError(f"data.root: {folder} has classes that train has not: {', '.join(extra)}.")
        endings, found, others = suffixes(), [], []
        for name in own:
            files = list(files_below(folder / name))
            images = [str(path) for path in files if path.suffix.lower() in endings]
            others += [path for path in files if path.suffix.lower() not in endings]
            if files and not images:
                kinds = ", ".join(sorted({path.suffix or path.name for path in files})[:5])
                raise UserError(
                    f"data.root: {folder / name} has {len(files)} files, none an image of a known kind ({kinds})."
                    " Convert them, or remove the folder."
                )
            if not images and split == "train":
                raise UserError(f"data.root: {folder / name} has no images. Add some, or remove the folder.")
            found += images
        self.report.leave_out("files that are no images by their names", [_relative(path, root) for path in others])
        return found

    def _report(self, folders: dict[str, Path], paths: dict[str, list[str]], root: Path) -> None:
        number = sum(map(len, paths.values()))
        self.report.find(f"{number:,} images in {described(folders, root)}")
        for what, found in strays(folders, root).items():
            self.report.leave_out(what, [_relative(path, root) for path in found], is_minor=True)

    def _without_unreadable(self, paths: dict[str, list[str]], root: Path) -> dict[str, list[str]]:
        """Raises UserError: some can't be decoded; all of them are named."""
        every = [path for found in paths.values() for path in found]
        bad = unreadable(every, self.num_channels, self.image_size)
        if not bad:
            return paths
        if not self.skip_unreadable:
            if len(bad) == 1:
                ((path, reason),) = bad.items()
                raise UserError(
                    f"data: {path} is not a readable image ({reason}). Repair or delete it; data.skip_unreadable=true"
                    " leaves it out."
                )
            listed = [f"  {path} is not a readable image ({reason})" for path, reason in bad.items()]
            more = [f"  … and {len(bad) - MOST_LISTED} more"] if len(bad) > MOST_LISTED else []
            raise UserError(
                f"data: {len(bad)} of {len(every)} images can't be read. Repair or delete them;"
                " data.skip_unreadable=true leaves them out.",
                *listed[:MOST_LISTED],
                *more,
            )
        self.report.leave_out(
            "images that can't be read", [f"{_relative(path, root)} ({reason})" for path, reason in bad.items()]
        )
        return {name: [path for path in found if path not in bad] for name, found in paths.items()}

    def _files(self, paths: list[str], folder: Path, class_names: Sequence[str]) -> ImageFiles:
        number = {name: i for i, name in enumerate(class_names)}
        labels = [number[Path(path).relative_to(folder).parts[0]] for path in paths]
        return ImageFiles(paths, torch.tensor(labels, dtype=torch.int64), self.num_channels, self.image_size)

    def _groups(self, paths: Sequence[str], root: Path) -> list[str] | None:
        if self.group is None:
            return None
        try:
            found = [re.search(self.group, str(Path(path).relative_to(root))) for path in paths]
        except re.error as error:
            raise UserError(f"data.group={self.group}: it is no regular expression: {error}.") from error
        if None in found:
            raise UserError(f"data.group={self.group}: it finds nothing in {paths[found.index(None)]}.")
        return groups_of([match.group(match.re.groups and 1) for match in found if match])


def _relative(path: str | Path, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()
