"""Texts and their translations: what all data modules for translation share, and the names of emojis."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt

from lab.data.base import Data
from lab.data.batches import Batches
from lab.data.data_report import digest, fingerprint
from lab.data.facts import Facts
from lab.data.folds import numbered
from lab.data.text import EncodedTexts, Ragged, VocabSize, emoji_names
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.text import Text
from lab.features.tokens import START, Kind, TextTokenizer, train_tokenizer, truncated

Pair = tuple[str, str]  # a text, and its translation


class TranslationData(Data):
    """Batches of `token` (B, S), the source; `target` (B, T), from `<s>` to `</s>`; `reference` (B, R); `index` (B,).

    `reference` is the target text in Unicode code points, against which translations are scored.

    Drawn splits have no source and no target in common.

    Args:
        tokens: the units of the tokenizer. The vocabulary is learned from the training split.
        vocab_size: the largest number of tokens in the vocabulary; rarer tokens are unknown.
        min_count: tokens with fewer occurrences in the training split are unknown.
        max_length: the largest number of tokens in a text; longer texts are truncated.
        shared_vocabulary: source and target have one vocabulary.
        tokens_per_batch: the largest number of tokens in a batch, of source or target, including padding; replaces
            `batch_size`.
        val_fraction: share of the pairs in the validation split, if it is drawn.
        test_fraction: share of the pairs in the test split, if it is drawn.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"text": Text, "target": Text}

    def __init__(
        self,
        tokens: Kind,
        val_fraction: Share,
        test_fraction: Share,
        vocab_size: VocabSize = 4000,
        min_count: PositiveInt = 1,
        max_length: PositiveInt = 128,
        shared_vocabulary: bool = False,
        tokens_per_batch: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokens, self.vocab_size, self.min_count, self.max_length = tokens, vocab_size, min_count, max_length
        self.shared_vocabulary, self.tokens_per_batch = shared_vocabulary, tokens_per_batch
        self.fractions = {"val": val_fraction, "test": test_fraction}

    @abstractmethod
    def read_pairs(self) -> dict[str, Sequence[Pair]]:
        """Read the pairs of "train", and of "val" and "test" unless these are drawn from "train"."""

    def read(self) -> tuple[dict[str, Batches], Facts]:
        pairs = self.split_pairs(self.read_pairs())
        for name, split in pairs.items():
            if not split:
                raise UserError(f"data: {name} has no pairs.")
        contents = {
            name: [digest(*(text.encode() for text in pair)) for pair in split] for name, split in pairs.items()
        }
        text, target = self._texts(pairs["train"])
        splits = {name: _encoded(split, text.tokens, target.tokens) for name, split in pairs.items()}
        if not self.facts:  # a new run: the net is not built yet
            target = replace(target, max_length=int(splits["train"].sequences["target"].length.max()) - 1)
        facts = Facts(
            {"text": text, "target": target},
            num_samples={name: len(split) for name, split in pairs.items()},
            fingerprint=fingerprint(contents),
        )
        self.report.describe(contents, self.names)
        self.report.cut(
            sum(_num_cut(pairs[name], texts, text.tokens, target.tokens) for name, texts in splits.items()),
            self.max_length,
        )
        self.report.warn_of_empty({name: [min(pair, key=len) for pair in split] for name, split in pairs.items()})
        self.report.warn_of_words([" ".join(pair) for pair in pairs["train"]], self.tokens)
        return dict(splits), facts

    def split_pairs(self, pairs: dict[str, Sequence[Pair]]) -> dict[str, Sequence[Pair]]:
        """Draw the missing splits from "train", and name all samples by their sources."""
        everything = pairs["train"]
        if not everything:
            raise UserError("data: there are no pairs.")
        missing = {name: share for name, share in self.fractions.items() if name not in pairs}
        parts = self.draw(len(everything), missing, related(everything), len(pairs.get("test", ())))
        pairs = pairs | {name: [everything[i] for i in index] for name, index in parts.items()}
        self.names = {name: [source for source, _ in split] for name, split in pairs.items()}
        return pairs

    def _texts(self, pairs: Sequence[Pair]) -> tuple[Text, Text]:
        text, target = self.known("text"), self.known("target")
        if self.facts:
            return text, target
        if text and target:
            contents = truncated(text.tokenizer, self.max_length), truncated(target.tokenizer, self.max_length)
            if self.shared_vocabulary and contents[0] != contents[1]:
                run = "the run whose weights this one starts from"
                raise UserError(f"data.shared_vocabulary: {run} has two vocabularies; leave it out.")
        else:
            contents = self._trained(pairs)
        return Text(contents[0], self.max_length), Text(contents[1], self.max_length, entry="target")

    def _trained(self, pairs: Sequence[Pair]) -> tuple[str, str]:
        texts = [list(side) for side in zip(*pairs, strict=True)]
        how = (self.tokens, self.vocab_size, self.min_count, self.max_length)
        if self.shared_vocabulary:
            both = train_tokenizer(texts[0] + texts[1], *how)
            return both, both
        return train_tokenizer(texts[0], *how), train_tokenizer(texts[1], *how)


class EmojiTranslations(TranslationData):
    """Names of emojis, such as "dog face", in two of the 14 languages of the `emoji` package.

    The names are those of Unicode (CLDR). Emojis that differ only in skin tone are left out.

    Args:
        source: the source language, such as "en".
        target: the target language.
    """

    def __init__(self, source: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source, self.target = source, target

    def read_pairs(self) -> dict[str, Sequence[Pair]]:
        names = list(emoji_names().values())
        for key, language in (("source", self.source), ("target", self.target)):
            if language not in names[0]:
                raise UserError(f"data.{key}: unknown language {language}; expected {', '.join(sorted(names[0]))}.")
        pairs = [(name[self.source], name[self.target]) for name in names]
        return {"train": pairs[:200] if self.tiny else pairs}


def related(pairs: Sequence[Pair]) -> list[str]:
    """A group for each pair: pairs with the same source or the same target are connected; a group is a component."""
    sides = [numbered(side).tolist() for side in zip(*pairs, strict=True)]
    offset = len(pairs)  # added to the numbers of targets
    parent = list(range(2 * len(pairs)))  # of each text: a connected text with a smaller number, or, at a root, itself

    def root(text: int) -> int:
        while parent[text] != text:
            parent[text] = text = parent[parent[text]]
        return text

    for source, target in zip(*sides, strict=True):
        a, b = root(source), root(target + offset)
        parent[max(a, b)] = min(a, b)
    return list(map(str, np.unique([root(source) for source in sides[0]], return_inverse=True)[1].tolist()))


def _encoded(pairs: Sequence[Pair], source: TextTokenizer, target: TextTokenizer) -> EncodedTexts:
    token = source.encode([text for text, _ in pairs])
    written = [[START, *ids] for ids in target.encode([text for _, text in pairs])]
    reference = Ragged.of([list(map(ord, text)) for _, text in pairs])
    return EncodedTexts({"token": Ragged.of(token), "target": Ragged.of(written)}, {"reference": reference})


def _num_cut(pairs: Sequence[Pair], texts: EncodedTexts, source: TextTokenizer, target: TextTokenizer) -> int:
    lengths = texts.length[:, 0].tolist(), (texts.length[:, 1] - 1).tolist()  # `START` is no token of the target text
    sides = zip((source, target), zip(*pairs, strict=True), lengths, strict=True)
    return sum(tokens.num_cut(side, length) for tokens, side, length in sides)
