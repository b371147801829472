import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lab.engine.constraints import Count
from lab.engine.errors import UserError
from lab.features.base import Arrays, Feature, Row, Sample
from lab.features.files import line_of, lines, refuse_wide
from lab.features.tokens import TextTokenizer

NO_TEXT = "it is not UTF-8"


@dataclass(frozen=True)
class Text(Feature):
    """A line of UTF-8: (T,) int64 token ids; 0 is padding.

    Args:
        tokenizer: the JSON of the tokenizer.
        max_length: the largest number of tokens in a text.
        encoder_config: the JSON of the configuration of a pretrained encoder, if the tokenizer belongs to one.
    """

    tokenizer: str
    max_length: Count
    encoder_config: str | None = None
    entry: str = "token"

    fact_names = ("vocab_size", "max_length", "tokenizer", "encoder_config")
    item, column, content_types = "text", "text", "text/"
    explainer = "lab.verbs.explain.texts.TextExplainer"
    tolerance = 0.02  # of two equally likely translations, rounding selects one

    @cached_property
    def tokens(self) -> TextTokenizer:
        return TextTokenizer(self.tokenizer)

    @property
    def vocab_size(self) -> int:
        return self.tokens.vocab_size

    def example(self) -> Sample:
        return {self.entry: np.full(self.max_length, self.tokens.unknown, np.int64)}

    def find(self, source: str) -> Iterator[str]:
        """The lines of a file; `-`: of standard input, as they arrive."""
        return lines(source, "a text")

    def read(self, items: Sequence[str]) -> tuple[list[Sample], list[str]]:
        errors = ["" if _is_text(item) else NO_TEXT for item in items]
        rows = self.tokens.encode([item for item, error in zip(items, errors, strict=True) if not error])
        return [{self.entry: np.array(row)} for row in rows], errors

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        refuse_wide(content[:4], "The text")
        text = line_of(content)
        if not _is_text(text):
            raise UserError("The text is not UTF-8.")
        return {self.entry: np.array(self.tokens.encode([text])[0])}

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        return [{name: self.tokens.decode([sample[self.entry]])[0]}]

    def html(self, sample: Sample) -> str:
        return html.escape(self.tokens.decode([sample[self.entry]])[0])

    def difference(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) share of the tokens that differ."""
        share: np.ndarray = (a[self.entry] != b[self.entry]).mean(1)
        return share

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        return (a[self.entry] != b[self.entry]).any(1)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
