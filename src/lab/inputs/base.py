"""What people give a model. An item is a file's path, or a sentence; here it becomes an array, without torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lab.errors import UserError


class TooLargeError(UserError):
    """More than a server takes."""


class Inputs(ABC):
    """How items of one kind are named, read and shown; its fields are plain values, which an exported file holds."""

    kind: ClassVar[str]  # the module's name
    item: ClassVar[str]  # what one is called, in a request too
    entry: ClassVar[str]  # what a batch of them is called
    column: ClassVar[str]  # of predictions
    content_types: ClassVar[str]  # the beginning of their names
    in_json: ClassVar[str] = "<text>"  # how an item stands there
    has_mirror_image: ClassVar[bool] = False

    @property
    @abstractmethod
    def example(self) -> np.ndarray:
        """(2, …): the type and the size that an exported model takes."""

    @abstractmethod
    def find(self, source: str) -> Iterable[str]:
        """The items that a user's `input=` stands for.

        Raises:
            UserError: there are none.
        """

    @abstractmethod
    def read(self, items: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """(N, …) of those items that are readable, and of each item the error, or ""."""

    @abstractmethod
    def decode(self, content: bytes, max_megapixels: float) -> np.ndarray:
        """One item that came over a network.

        Raises:
            TooLargeError: it is.
            UserError: it is no such item.
        """

    @abstractmethod
    def of_json(self, text: str) -> bytes:
        """The content that stands in JSON as a text; raises ValueError where it is none."""

    @abstractmethod
    def stack(self, items: Sequence[np.ndarray]) -> np.ndarray: ...

    @abstractmethod
    def html(self, item: np.ndarray) -> str:
        """An item as the net sees it."""

    def facts(self) -> dict[str, Any]:
        """What a client wants to know."""
        return asdict(self)  # type: ignore[call-overload]


def pack(what: Any) -> dict[str, Any]:
    """Plain values of inputs or outputs, for `unpack`."""
    return {"kind": what.kind} | asdict(what)


def unpack(package: str, kind: str, **fields: Any) -> Any:
    """Those of a module of `lab.inputs` or `lab.outputs`; raises ValueError where this lab has no such module."""
    if kind not in {path.stem for path in (Path(__file__).parents[1] / package).glob("[a-z]*.py")} - {"base"}:
        raise ValueError(f"its {package} are {kind}, which this lab does not know")
    return getattr(import_module(f"lab.{package}.{kind}"), kind.capitalize())(**fields)


def padded(array: np.ndarray, shape: Sequence[Any]) -> np.ndarray:
    """With zeros at the end of each dimension but the first, up to `shape`, whose names stand for any size."""
    more = [most - size if isinstance(most, int) else 0 for size, most in zip(array.shape[1:], shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *((0, n) for n in more)]) if any(more) else array
