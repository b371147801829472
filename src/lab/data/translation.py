"""Texts and their translations: what all data modules for translation share, and the one that needs no file."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lab.data.base import Data
from lab.data.batches import Batches
from lab.data.data_report import digest, fingerprint
from lab.data.facts import Facts
from lab.data.text import EncodedTexts, Ragged, VocabSize, emoji_names
from lab.engine.constraints import Share
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.text import Text
from lab.features.tokens import START, Kind, TextTokenizer, train, truncated

Pair = tuple[str, str]  # a text, and its translation


class TranslationData(Data):
    """Batches of `token` (B, S), the source, `target` (B, T), from `<s>` to `</s>`, and `index` (B,).

    `reference` (B, R) is the target as it was written, in Unicode's code points: what translations are scored by.

    Splits that are drawn share no source and no target.

    Args:
        tokens: what a text is cut into; the training split's are the vocabulary.
        vocab_size: the most tokens in it, the rarest being left out.
        min_count: tokens that are rarer in the training split are left out.
        max_length: tokens of a text; what is beyond is cut off.
        shared_vocabulary: of source and target.
        tokens_per_batch: the most tokens of a batch on either side, padding included; in place of `batch_size`.
        val_fraction: share of the pairs that validate, where no split of them is given.
        test_fraction: the same, of those that test.
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
        """The pairs of "train", and of "val" and "test" where these are not to be drawn from them."""

    def read(self) -> tuple[dict[str, Batches], Facts]:
        pairs = self._drawn(self.read_pairs())
        for name, split in pairs.items():
            if not split:
                raise UserError(f"data: {name} has no pairs.")
        contents = {
            name: [digest(*(text.encode() for text in pair)) for pair in split] for name, split in pairs.items()
        }
        text, target = self._texts(pairs["train"])
        splits = {name: _encoded(split, text.tokens, target.tokens) for name, split in pairs.items()}
        if not self.facts:  # the net is yet to be built
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

    def _drawn(self, pairs: dict[str, Sequence[Pair]]) -> dict[str, Sequence[Pair]]:
        """With the splits that are missing; `names` of all samples are their sources."""
        everything = pairs["train"]
        if not everything:
            raise UserError("data: there are no pairs.")
        missing = {name: share for name, share in self.fractions.items() if name not in pairs}
        parts = self.draw(
            torch.zeros(len(everything), dtype=torch.int64), missing, related(everything), len(pairs.get("test", ()))
        )
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
            both = train(texts[0] + texts[1], *how)
            return both, both
        return train(texts[0], *how), train(texts[1], *how)


class EmojiTranslations(TranslationData):
    """Names of things, such as "dog face", in two of the 14 languages that come inside the `emoji` package.

    They are Unicode's names of its emojis (CLDR); those that differ in the colour of skin alone are left out.

    Args:
        source: the language that is read, such as "en".
        target: the one that is written.
    """

    def __init__(self, source: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source, self.target = source, target

    def read_pairs(self) -> dict[str, Sequence[Pair]]:
        names = list(emoji_names().values())
        for key, language in (("source", self.source), ("target", self.target)):
            if language not in names[0]:
                raise UserError(f"data.{key}: there is no {language}; there are {', '.join(sorted(names[0]))}.")
        pairs = [(name[self.source], name[self.target]) for name in names]
        return {"train": pairs[:200] if self.tiny else pairs}


def related(pairs: Sequence[Pair]) -> list[str]:
    """A group for each pair: it has all pairs with its source or its target, and all that have those of one of them."""
    sides = [_numbered(side) for side in zip(*pairs, strict=True)]
    source, target = sides[0], sides[1] + sides[0].max() + 1
    edges = coo_array((np.ones(len(pairs)), (source, target)), shape=(target.max() + 1,) * 2)
    _, group = connected_components(edges, directed=False)
    return list(map(str, group[source].tolist()))


def _numbered(texts: Sequence[str]) -> np.ndarray:
    """A number for each text, in their order. An array of texts would hold each in as much memory as the longest."""
    number = {text: i for i, text in enumerate(sorted(set(texts)))}
    return np.array([number[text] for text in texts])


def _encoded(pairs: Sequence[Pair], source: TextTokenizer, target: TextTokenizer) -> EncodedTexts:
    token = source.encode([text for text, _ in pairs])
    said = [[START, *ids] for ids in target.encode([text for _, text in pairs])]
    reference = Ragged.of([list(map(ord, text)) for _, text in pairs])
    return EncodedTexts({"token": Ragged.of(token), "target": Ragged.of(said)}, {"reference": reference})


def _num_cut(pairs: Sequence[Pair], texts: EncodedTexts, source: TextTokenizer, target: TextTokenizer) -> int:
    lengths = texts.length[:, 0].tolist(), (texts.length[:, 1] - 1).tolist()  # of the target without `START`
    sides = zip((source, target), zip(*pairs, strict=True), lengths, strict=True)
    return sum(tokens.num_cut(side, length) for tokens, side, length in sides)
