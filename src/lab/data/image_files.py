"""Images on disk, in any mode that PIL reads; and what images on disk and in memory have in common."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lab.data.batches import Batch, Batches, Tensors, no_collate
from lab.data.data_report import digest
from lab.engine import timing
from lab.engine.errors import UserError
from lab.features.read_image import NUM_THREADS, read_image


class ImageFiles(Batches):
    """Images on disk, decoded for each batch. Without `label`, batches have no labels."""

    def __init__(self, paths: Sequence[str], label: Tensor | None, num_channels: int, image_size: int) -> None:
        self.paths, self.label, self.num_channels, self.image_size = paths, label, num_channels, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        pictures = [read_image(self.paths[i], self.num_channels, self.image_size) for i in indices]
        image = torch.stack(list(map(torch.from_numpy, pictures)))
        return {"image": image, "index": index} | ({} if self.label is None else {"label": self.label[index]})

    def subset(self, indices: Sequence[int]) -> "ImageFiles":
        label = None if self.label is None else self.label[torch.as_tensor(indices)]
        return ImageFiles([self.paths[i] for i in indices], label, self.num_channels, self.image_size)

    def contents(self) -> list[bytes]:
        """A digest of each file."""
        try:
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                return list(pool.map(lambda path: digest(Path(path).read_bytes()), self.paths))
        except OSError as error:
            raise UserError(f"data: {error.filename} can't be read ({error.strerror}).") from error

    def decode(self, num_workers: int, timeout: float) -> Tensor:
        """(N, C, H, W) uint8: all images, decoded in `num_workers` processes."""
        image = torch.empty(len(self), self.num_channels, self.image_size, self.image_size, dtype=torch.uint8)
        patience = timeout if num_workers else 0
        batches = DataLoader(self, batch_size=64, num_workers=num_workers, timeout=patience, collate_fn=no_collate)
        with timing.announced(f"Decoding {len(self):,} images"):
            for batch in tqdm(batches, "Decoding", leave=False, disable=None):
                image[batch["index"]] = batch["image"]
        return image


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


def in_memory(split: Batches, num_workers: int, timeout: float) -> Tensors:
    """The decoded images of files, with their labels."""
    assert isinstance(split, ImageFiles)
    return Tensors(image=split.decode(num_workers, timeout), label=labels_of(split))


def unreadable(paths: Sequence[str], num_channels: int, image_size: int) -> dict[str, str]:
    """Decode every image once. Return the reason for each path that is not a readable image."""

    def reason(path: str) -> str:
        try:
            read_image(path, num_channels, image_size)
        except UserError as error:
            cause = error.__cause__
            text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
            return " ".join(text.split()).replace(f" {path!r}", "")
        return ""

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        reasons = tqdm(pool.map(reason, paths), "Checking", len(paths), leave=False, disable=None, delay=2)
        return {path: why for path, why in zip(paths, reasons, strict=True) if why}
