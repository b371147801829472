"""Images on disk, in any mode that PIL reads; and what images on disk and in memory have in common."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lab.data.batches import Batch, Batches, Tensors
from lab.data.data_report import digest
from lab.data.decoded import DecodedImages, reason
from lab.engine.errors import UserError
from lab.features.read_image import NUM_THREADS, read_image


class ImageFiles(Batches):
    """Images on disk, decoded for each batch.

    Args:
        paths: of the files.
        label: (N,) classes; None: batches have no labels.
        num_channels: 3: colour; 1: greyscale.
        image_size: the side of an image.
        memory: all images of the set, already decoded.
    """

    def __init__(
        self,
        paths: Sequence[str],
        label: Tensor | None,
        num_channels: int,
        image_size: int,
        memory: DecodedImages | None = None,
    ) -> None:
        self.paths, self.label, self.num_channels, self.image_size = paths, label, num_channels, image_size
        self.memory = memory

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index, paths = torch.as_tensor(indices), [self.paths[i] for i in indices]
        if self.memory is not None:
            image = self.memory[paths]
        else:
            pictures = (read_image(path, self.num_channels, self.image_size) for path in paths)
            image = torch.stack(list(map(torch.from_numpy, pictures)))
        return {"image": image, "index": index} | ({} if self.label is None else {"label": self.label[index]})

    def subset(self, indices: Sequence[int]) -> "ImageFiles":
        label = None if self.label is None else self.label[torch.as_tensor(indices)]
        return ImageFiles([self.paths[i] for i in indices], label, self.num_channels, self.image_size, self.memory)

    def contents(self) -> list[bytes]:
        """A digest of each file."""
        try:
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                return list(pool.map(lambda path: digest(Path(path).read_bytes()), self.paths))
        except OSError as error:
            raise UserError(f"data: {error.filename} can't be read ({error.strerror}).") from error


def labels_of(split: Batches) -> Tensor:
    """(N,) class of each image of a split."""
    label = split.tensors["label"] if isinstance(split, Tensors) else getattr(split, "label", None)
    assert label is not None
    return label


def digests_of(split: Batches) -> list[bytes]:
    """A digest of each image of a split: of its pixels in memory, or of its file."""
    if isinstance(split, Tensors):
        return [digest(image.tobytes()) for image in split.tensors["image"].numpy()]
    assert isinstance(split, ImageFiles)
    return split.contents()


def in_memory(split: Batches) -> Batches:
    """The split without its files, if they are decoded already."""
    if not isinstance(split, ImageFiles) or split.memory is None:
        return split
    return Tensors(image=split.memory[split.paths], label=labels_of(split))


def unreadable(paths: Sequence[str], num_channels: int, image_size: int) -> dict[str, str]:
    """Decode every image once. Return the reason for each path that is not a readable image."""

    def why(path: str) -> str:
        try:
            read_image(path, num_channels, image_size)
        except UserError as error:
            return reason(error, path)
        return ""

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        reasons = tqdm(pool.map(why, paths), "Checking", len(paths), leave=False, disable=None, delay=2)
        return {path: why for path, why in zip(paths, reasons, strict=True) if why}
