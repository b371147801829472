"""All images of a folder, decoded once and kept in memory."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

from lab.engine import timing
from lab.engine.display import say
from lab.engine.errors import UserError
from lab.engine.memory import available
from lab.engine.training.process import available_cores
from lab.features.read_image import read_image

MOST_MEMORY = 0.5  # the share of the free memory that the images may take: for a moment they are in it twice


class DecodedImages:
    """The images of files. `reasons` has why a file is no image, by its path.

    PIL decodes without Python's lock: a thread for each core decodes as fast as a process for each core, and nothing is
    copied between processes.
    """

    def __init__(self, paths: Sequence[str], num_channels: int, image_size: int) -> None:
        self.image = torch.empty(len(paths), num_channels, image_size, image_size, dtype=torch.uint8)
        self.row = {path: i for i, path in enumerate(paths)}
        pixels = self.image.numpy()

        def decode(path: str) -> str:
            try:
                pixels[self.row[path]] = read_image(path, num_channels, image_size)
            except UserError as error:
                return reason(error, path)
            return ""

        with timing.announced(f"Decoding {len(paths):,} images"), ThreadPoolExecutor(available_cores()) as pool:
            reasons = tqdm(pool.map(decode, paths), "Decoding", len(paths), leave=False, disable=None)
            self.reasons = {path: why for path, why in zip(paths, reasons, strict=True) if why}

    def __getitem__(self, paths: Sequence[str]) -> Tensor:
        """(N, C, H, W) uint8 images of these files."""
        return self.image[[self.row[path] for path in paths]]


def decoded(paths: Sequence[str], num_channels: int, image_size: int) -> DecodedImages | None:
    """Decode the images, unless they need more than `MOST_MEMORY`; then print a line, and return None."""
    needed, free = len(paths) * num_channels * image_size**2, available()
    if needed <= MOST_MEMORY * free:
        return DecodedImages(paths, num_channels, image_size)
    say(
        f"warning: data.cache: {len(paths):,} images need {needed / 1e9:.3g} GB, and may take half of the free"
        f" {free / 1e9:.3g} GB: each epoch decodes them again. A smaller data.image_size needs less.",
        file=sys.stderr,
    )
    return None


def reason(error: UserError, path: str) -> str:
    """Why a file is not a readable image."""
    cause = error.__cause__
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return " ".join(text.split()).replace(f" {path!r}", "")
