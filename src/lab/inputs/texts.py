import html
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lab.data.files import TABLES, refuse_wide
from lab.data.tokens import Tokens, padded
from lab.errors import UserError
from lab.inputs.base import Inputs

NO_TEXT = "it is not UTF-8"
NO_LINES = (*TABLES, ".json", ".ndjson", ".arrow", ".xls", ".xlsx")


@dataclass(frozen=True)
class Texts(Inputs):
    """Lines of UTF-8; (N, T) int64 token ids, T those of the longest."""

    tokenizer: str  # its JSON
    max_length: int

    kind, item, column, content_types = "texts", "text", "text", "text/"
    entry = "token"

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.tokenizer)

    @property
    def example(self) -> np.ndarray:
        return np.full((2, self.max_length), self.tokens.unknown, np.int64)

    def find(self, source: str) -> Iterator[str]:
        """The lines of a file; or `-`: of standard input, as they come."""
        if Path(source).is_dir():
            raise UserError(f"error: input={source}: it is a folder; give a file with a text on each line.")
        if Path(source).suffix.lower() in NO_LINES:
            raise UserError(
                f"error: input={source}: it is a table; give a file with a text on each line."
                " To read it as plain lines, use input=- < FILE."
            )
        try:
            lines = _lines(open(sys.stdin.fileno() if source == "-" else source, "rb", closefd=source != "-"))  # noqa: SIM115
        except FileNotFoundError as error:
            raise UserError(
                f"error: input={source}: there is no such file, with a text on each line; input=- reads standard input."
            ) from error
        except OSError as error:
            raise UserError(f"error: input={source}: it can't be read: {error.strerror}.") from error
        if (first := next(lines, None)) is None:
            raise UserError(f"error: input={source}: it is empty; a text on each line is expected.")
        refuse_wide(first.encode(errors="surrogateescape"), f"error: input={source}: it")
        return chain([first], lines)

    def read(self, items: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        errors = ["" if _is_text(item) else NO_TEXT for item in items]
        rows = self.tokens.encode([item for item, error in zip(items, errors, strict=True) if not error])
        return padded(rows) if rows else np.empty((0, 0), np.int64), errors

    def decode(self, content: bytes, max_megapixels: float) -> np.ndarray:
        refuse_wide(content[:4], "The text")
        text = _line(content)
        if not _is_text(text):
            raise UserError("The text is not UTF-8.")
        return np.array(self.tokens.encode([text])[0])

    def of_json(self, text: str) -> bytes:
        return text.encode()  # a lone surrogate is no text: a ValueError

    def stack(self, items: Sequence[np.ndarray]) -> np.ndarray:
        return padded(items)

    def html(self, item: np.ndarray) -> str:
        return html.escape(self.tokens.decode([item])[0])

    def facts(self) -> dict[str, Any]:
        return {"max_length": self.max_length}


def _lines(file: BinaryIO) -> Iterator[str]:
    with file:
        yield from map(_line, file)


def _line(content: bytes) -> str:
    """Without its end, and the mark that some editors begin a file with; bytes that are no UTF-8 become surrogates."""
    text = content.decode(errors="surrogateescape")
    return text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
