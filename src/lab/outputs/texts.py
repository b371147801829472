from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lab.features.tokens import Tokens
from lab.outputs.base import Outputs


@dataclass(frozen=True)
class Texts(Outputs):
    """(T,) token ids, up to `</s>`."""

    tokenizer: str  # its JSON

    kind, entry = "texts", "translation"

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.tokenizer)

    def say(self, answer: np.ndarray) -> dict[str, Any]:
        return {self.entry: self.tokens.decode([answer])[0]}
