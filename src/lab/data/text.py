"""Texts and their classes: what data modules with texts share, and the languages of emoji names."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from lab.data.augment import uniform_of_epoch
from lab.data.base import Data
from lab.data.batches import Batch, Batches
from lab.data.classes import check_classes, classification_facts
from lab.data.data_report import digest
from lab.data.facts import Facts
from lab.engine.constraints import Fraction, Share
from lab.engine.errors import UserError
from lab.engine.markdown import table
from lab.features.base import Feature
from lab.features.labels import ClassLabel
from lab.features.text import Text
from lab.features.tokens import Kind, TextTokenizer, encoder_config, pretrained, train_tokenizer, truncated

VocabSize = Annotated[int, Field(ge=5)]  # the four special tokens, and one more


@dataclass
class Labelled:
    """The texts of a split with their classes."""

    text: Sequence[str]
    label: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.text)

    def subset(self, indices: Sequence[int]) -> "Labelled":
        return Labelled([self.text[i] for i in indices], self.label[torch.as_tensor(indices, dtype=torch.int64)])


class Ragged:
    """Sequences of token ids, concatenated in memory."""

    def __init__(self, flat: Tensor, length: Tensor) -> None:
        self.flat, self.length = flat, length
        self.start = length.cumsum(0) - length

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        flat = torch.tensor([i for row in rows for i in row], dtype=torch.int32)
        return cls(flat, torch.tensor([len(row) for row in rows]))

    def __getitem__(self, index: Tensor) -> Tensor:
        """(B,) indices -> (B, T) int64 sequences, padded with 0 to the length of the longest."""
        length = self.length[index]
        position = torch.arange(int(length.max()))
        inside = position < length[:, None]
        token = torch.zeros(inside.shape, dtype=torch.int64)
        token[inside] = self.flat[(self.start[index][:, None] + position)[inside]].long()
        return token

    def subset(self, index: Tensor) -> "Ragged":
        token = self[index]
        return Ragged(token[token != 0].int(), self.length[index])


class EncodedTexts(Batches):
    """Encoded texts in memory.

    Args:
        sequences: entries whose lengths decide the batches, such as `token`.
        others: further entries, such as `label`.
    """

    def __init__(self, sequences: dict[str, Ragged], others: Mapping[str, Tensor | Ragged]) -> None:
        self.sequences, self.others = sequences, others
        self.length: Tensor = torch.stack([sequence.length for sequence in sequences.values()], 1)

    def __len__(self) -> int:
        return len(self.length)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        return {name: values[index] for name, values in {**self.sequences, **self.others}.items()} | {"index": index}

    def subset(self, indices: Sequence[int]) -> Self:
        index = torch.as_tensor(indices)
        sequences = {name: sequence.subset(index) for name, sequence in self.sequences.items()}
        others = {
            name: values.subset(index) if isinstance(values, Ragged) else values[index]
            for name, values in self.others.items()
        }
        return type(self)(sequences, others)


class TextData(Data):
    """Batches of `token` (B, T), `label` (B,) and `index` (B,); T is the length of the longest text of the batch.

    Args:
        tokens: the units of the tokenizer. The vocabulary is learned from the training split.
        vocab_size: the largest number of tokens in the vocabulary; rarer tokens are unknown.
        min_count: tokens with fewer occurrences in the training split are unknown.
        max_length: the largest number of tokens in a text; longer texts are truncated.
        tokens_per_batch: the largest number of tokens in a batch, including padding; replaces `batch_size`. In a
            step of several batches, or processes, each batch has the same weight.
        word_dropout: probability of replacing a word by the unknown token in training; one known word always stays.
        tokenizer: the tokenizer of a pretrained encoder, in place of `tokens`, `vocab_size` and `min_count`: a folder,
            or a name on Hugging Face's hub.
    """

    features: ClassVar[dict[str, type[Feature]]] = {"text": Text, "label": ClassLabel}

    def __init__(
        self,
        tokens: Kind,
        vocab_size: VocabSize = 10_000,
        min_count: PositiveInt = 1,
        max_length: PositiveInt = 256,
        tokens_per_batch: PositiveInt | None = None,
        word_dropout: Fraction = 0.0,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.tokens, self.vocab_size, self.min_count, self.max_length = tokens, vocab_size, min_count, max_length
        self.tokens_per_batch, self.word_dropout = tokens_per_batch, word_dropout

    @abstractmethod
    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        """Read the splits and the names of the classes."""

    def read(self) -> tuple[dict[str, Batches], Facts]:
        splits, class_names = self.read_splits()
        contents = {name: [digest(text.encode()) for text in split.text] for name, split in splits.items()}
        labels = {name: split.label.tolist() for name, split in splits.items()}
        class_names = check_classes(labels, class_names)
        text = self._text(splits["train"].text)
        facts = classification_facts({"text": text}, contents, labels, class_names)
        tokens = text.tokens
        self.names = {name: [text[:200] for text in split.text] for name, split in splits.items()}
        encoded = {name: _encoded(split, tokens) for name, split in splits.items()}
        self.report.describe(contents, self.names)
        self.report.count_classes(labels, class_names)
        self.report.cut(
            sum(tokens.num_cut(splits[name].text, texts.length[:, 0].tolist()) for name, texts in encoded.items()),
            self.max_length,
        )
        self.report.warn_of_empty({name: split.text for name, split in splits.items()})
        self.report.warn_of_words(splits["train"].text, None if self.tokenizer else self.tokens)
        return dict(encoded), facts

    def _text(self, train_texts: Sequence[str]) -> Text:
        known: Text | None = self.known("text")
        if known and known.max_length != self.max_length:
            return Text(truncated(known.tokenizer, self.max_length), self.max_length, known.encoder_config)
        if known:
            return known
        if self.tokenizer:
            content = pretrained(self.tokenizer, self.max_length)
            return Text(content, self.max_length, encoder_config(self.tokenizer))
        return Text(
            train_tokenizer(train_texts, self.tokens, self.vocab_size, self.min_count, self.max_length), self.max_length
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        if not (self.word_dropout and self.trainer is not None and self.trainer.training):
            return batch
        random = uniform_of_epoch(
            self.seed, self.trainer.current_epoch, batch["index"], self.facts.features["text"].max_length + 1
        )
        return batch | {"token": self._drop(batch["token"], random)}

    @cached_property
    def _drop(self) -> "WordDropout":
        return WordDropout(self.facts.features["text"].tokens, self.word_dropout)

    def show(self, batch: Batch, captions: Sequence[str], title: str) -> str:
        texts = self.facts.features["text"].tokens.decode(batch["token"].tolist())
        return table(["text", ""], zip(texts, captions, strict=True), title)

    def figures(self, batch: Batch) -> dict[str, Any]:
        names = [self.facts.features["label"].class_names[i] for i in batch["label"].tolist()]
        return {"samples": self.show(batch, names, "training samples as the net sees them")}


class WordDropout:
    """Replace words by unknown tokens. One known word of each text always stays.

    Args:
        tokens: the tokenizer.
        share: the probability of replacing a word.
    """

    def __init__(self, tokens: TextTokenizer, share: float) -> None:
        self.begins = torch.tensor(tokens.begins_word)
        self.special = torch.zeros_like(self.begins)
        self.special[sorted(tokens.special)] = True
        self.unknown, self.share = tokens.unknown, share

    def __call__(self, token: Tensor, random: Tensor) -> Tensor:
        """(B, T) token ids and (B, T + 1 or more) random numbers in [0, 1), one for each word -> (B, T) token ids."""
        self.begins, self.special = self.begins.to(token.device), self.special.to(token.device)
        number = random.gather(1, self.begins[token].cumsum(1))
        known = ~self.special[token]
        highest = number.masked_fill(~known, -1).amax(1, keepdim=True)
        return token.masked_fill(known & (number < self.share) & (number < highest), self.unknown)


class EmojiLanguages(TextData):
    """Names of emojis in 14 languages, from the `emoji` package. The class is the language.

    The names are those of Unicode (CLDR). All names of an emoji are in one split. Emojis that differ only in skin tone
    are left out. Some names, such as those of countries, are equal in several languages.
    """

    def __init__(self, val_fraction: Share, test_fraction: Share, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def read_splits(self) -> tuple[dict[str, Labelled], list[str]]:
        names = emoji_names()
        if self.tiny:
            names = dict(list(names.items())[:40])
        languages = sorted(next(iter(names.values())))
        rows = [(name[language], i, emoji) for emoji, name in names.items() for i, language in enumerate(languages)]
        text, label, group = zip(*rows, strict=True)
        everything = Labelled(text, torch.tensor(label))
        parts = self.draw(everything.label, self.fractions, group)
        return {name: everything.subset(index) for name, index in parts.items()}, languages


def emoji_names() -> dict[str, dict[str, str]]:
    """The name of each emoji without a skin tone, by language, such as "de".

    Raises:
        UserError: the `emoji` package is not installed.
    """
    try:
        import emoji
    except ImportError as error:
        raise UserError("data: it needs emoji: pip install 'lab-template[text]'") from error
    emoji.config.load_language()
    names = {
        character: {language: of[language].strip(":").replace("_", " ") for language in emoji.LANGUAGES}
        for character, of in emoji.EMOJI_DATA.items()
        if of["status"] <= emoji.STATUS["fully_qualified"] and "skin_tone" not in of["en"]
    }
    return names


def _encoded(split: Labelled, tokens: TextTokenizer) -> EncodedTexts:
    return EncodedTexts({"token": Ragged.of(tokens.encode(split.text))}, {"label": split.label})
