from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass
class Group:
    """The samples of a picture: `items` as they are read, `target` the class that the net answers with."""

    name: str
    title: str
    samples: list[str]
    items: Sequence[np.ndarray]
    target: Tensor
    probability: Tensor
    label: Tensor | None = None  # of samples of the test split
