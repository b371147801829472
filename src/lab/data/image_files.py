"""Images on disk, in any mode that PIL reads."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as TF
from tqdm import tqdm

from lab.data.base import Batch, Batches, as_it_is
from lab.errors import UserError


class ImageFiles(Batches):
    """Images on disk, decoded when asked for; without `label` their batches have none."""

    def __init__(self, paths: Sequence[str], label: Tensor | None, num_channels: int, image_size: int) -> None:
        self.paths, self.label, self.num_channels, self.image_size = paths, label, num_channels, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        image = torch.stack([read_image(self.paths[i], self.num_channels, self.image_size) for i in indices])
        return {"image": image, "index": index} | ({} if self.label is None else {"label": self.label[index]})

    def subset(self, indices: Sequence[int]) -> "ImageFiles":
        label = None if self.label is None else self.label[torch.as_tensor(indices)]
        return ImageFiles([self.paths[i] for i in indices], label, self.num_channels, self.image_size)

    def decode(self, num_workers: int, timeout: float) -> Tensor:
        """(N, C, H, W) uint8: every image, decoded in as many processes."""
        image = torch.empty(len(self), self.num_channels, self.image_size, self.image_size, dtype=torch.uint8)
        patience = timeout if num_workers else 0
        batches = DataLoader(self, batch_size=64, num_workers=num_workers, timeout=patience, collate_fn=as_it_is)
        for batch in tqdm(batches, "Decoding", leave=False, disable=None):
            image[batch["index"]] = batch["image"]
        return image


def read_image(path: str, num_channels: int, image_size: int) -> Tensor:
    """The centre square of a file's (first) picture, (C, `image_size`, `image_size`) uint8.

    Any mode that PIL reads: transparency is laid on white, 16- and 32-bit grey is scaled by its largest value.
    """
    try:
        with Image.open(path, formats=_formats()) as file:
            file.draft(None, (2 * image_size, 2 * image_size))  # a JPEG is decoded at 1/2, 1/4 or 1/8 if that is enough
            picture = _eight_bits(ImageOps.exif_transpose(file))
    except Exception as error:  # each format has errors of its own
        raise UserError(f"data: {path} is not a readable image ({error}). Mend or remove it.") from error
    picture = picture.convert("RGB" if num_channels == 3 else "L")
    image = TF.resize(TF.pil_to_tensor(picture), [image_size], antialias=True)
    return TF.center_crop(image, [image_size, image_size])


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        level = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((level.clip(0) * (255 / max(level.max(), 1))).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


@cache
def _formats() -> list[str]:
    """All of PIL's but PostScript, which is a program, and would be run."""
    Image.init()
    return sorted(set(Image.OPEN) - {"EPS"})


def file_size(path: Path) -> int:
    """In bytes, of a file that is there and not empty."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"data: {path} is not a readable image ({error.strerror}). Mend or remove it.") from error
    if not size:
        raise UserError(f"data: {path} is not a readable image (it is empty). Mend or remove it.")
    return size


def suffixes() -> tuple[str, ...]:
    return tuple(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())
