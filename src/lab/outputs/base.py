"""What a task answers where that is no class: here an array becomes words, or numbers, without torch."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np


class Outputs(ABC):
    """How answers of one kind are read; its fields are plain values, which an exported file holds."""

    kind: ClassVar[str]  # the module's name
    entry: ClassVar[str]  # what one is called

    @abstractmethod
    def say(self, answer: np.ndarray) -> dict[str, Any]:
        """A row of `predict_step`, in words and numbers."""
