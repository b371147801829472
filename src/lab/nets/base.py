"""Optional declarations of a net."""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor


class TrainingSamples(Protocol):
    """The training split as a net gets it: normalised, not augmented, on the CPU.

    Images are float64, so that a sum over the split has no rounding error that matters.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
        """(B,) sample indices -> a batch with the inputs and the targets, such as `label`."""


class InitFromData(ABC):
    """A module whose first weights depend on the training split.

    `init_from` is called once, for a new run, before weights of another run are loaded. A checkpoint holds its result:
    a run is loaded without data. Every process of a run calls it, so it draws nothing and depends on no device.
    """

    @abstractmethod
    def init_from(self, samples: TrainingSamples) -> None:
        """Set the first weights, in place."""
