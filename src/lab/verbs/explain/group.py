"""The samples that `lab explain` draws together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass
class Group:
    """The samples of one figure."""

    name: str  # of the file
    title: str
    samples: list[str]  # names
    items: Sequence[np.ndarray]  # the first entry of each sample, as it is read
    target: Tensor  # (N,) the predicted classes, which are explained
    probability: Tensor  # (N,) their probabilities
    label: Tensor | None = None  # (N,) the true classes, for samples of the test split
