"""Tokenizers: texts to token ids and back, with the `tokenizers` library. This module imports no torch.

A tokenizer is stored as its JSON.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.engine.errors import UserError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork

try:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as missing:
    raise UserError("data: texts need tokenizers: pip install 'lab-template[text]'") from missing

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
PAD, UNKNOWN, START, END = range(4)

Kind = Literal["characters", "words", "subwords"]
Ids = Sequence[int] | np.ndarray  # the token ids of a text


class TextTokenizer:
    """A tokenizer.

    Args:
        content: its JSON, as `train_tokenizer` and `pretrained` return it.

    Raises:
        UserError: the JSON is damaged, or has no unknown token or no end token.
    """

    def __init__(self, content: str) -> None:
        try:
            self.tokenizer = Tokenizer.from_str(content)
            special = [token["id"] for token in json.loads(content)["added_tokens"] if token["special"]]
        except Exception as error:  # the library raises Exception
            raise UserError(f"data: the tokenizer is damaged ({' '.join(str(error).split())[:200]}).") from error
        self.tokenizer.encode_special_tokens = True  # "<pad>" in a text is five characters, not a token
        self.vocab_size: int = self.tokenizer.get_vocab_size()
        self.special = {PAD, *special}
        self.unknown = self._id_of(getattr(self.tokenizer.model, "unk_token", None))
        self.end = self._id_of("</s>", "[SEP]")

    def _id_of(self, *names: str | None) -> int:
        """The id of the first of these tokens that exists."""
        found = (self.tokenizer.token_to_id(name) for name in names if name is not None)
        if (number := next((i for i in found if i is not None), None)) is None:
            raise UserError("data: the tokenizer is damaged (it has no unknown token or no end token).")
        return int(number)

    @property
    def begins_word(self) -> list[bool]:
        """For each token, true if a word between spaces begins with it, or with the space in front of it."""
        names = [self.tokenizer.id_to_token(i) or "" for i in range(self.vocab_size)]
        if isinstance(self.tokenizer.pre_tokenizer, pre_tokenizers.Whitespace):  # a token is a word
            return [True] * len(names)
        if isinstance(self.tokenizer.model, models.WordPiece):
            return [not name.startswith("##") for name in names]
        return [name[:1].isspace() or name.startswith(("▁", "Ġ")) for name in names]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, truncated to the `max_length` of the tokenizer. The last id is `END`."""
        rows: list[list[int]] = []
        for start in range(0, len(texts), 1000):  # the encodings of the library take much memory
            rows += [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts[start : start + 1000]))]
        return rows

    def num_cut(self, texts: Sequence[str], lengths: Sequence[int]) -> int:
        """Return how many texts `encode` truncates.

        Args:
            texts: the texts.
            lengths: the number of tokens of each text after truncation.
        """
        most = max(lengths, default=0)
        longer = TextTokenizer(truncated(self.tokenizer.to_str(), most + 1))
        full = [text for text, length in zip(texts, lengths, strict=True) if length == most]
        return sum(len(ids) > most for ids in longer.encode(full))

    def decode(self, rows: Iterable[Ids]) -> list[str]:
        """The text of each row of ids, up to the first `END`, without start tokens and padding."""
        kept = ([int(i) for i in row] for row in rows)
        cut = (row[: row.index(self.end)] if self.end in row else row for row in kept)
        left_out = self.special - {self.unknown}
        texts: list[str] = self.tokenizer.decode_batch(
            [[i for i in row if i not in left_out] for row in cut], skip_special_tokens=False
        )
        return texts

    def pieces(self, row: Ids) -> list[str]:
        """Each token in readable form."""
        names = {self.end: "⏎", self.unknown: "□"}
        return [names.get(i) or (self.tokenizer.id_to_token(i) or "").replace("▁", " ") for i in map(int, row)]


def padded(rows: Sequence[Ids]) -> np.ndarray:
    """(N, T) int64 ids, each row padded with `PAD` to the length of the longest."""
    token = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for row, ids in zip(token, rows, strict=True):
        row[: len(ids)] = ids
    return token


def truncated(content: str, max_length: int) -> str:
    """The JSON of the same tokenizer that truncates texts to `max_length` tokens."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.enable_truncation(max_length)
    shorter: str = tokenizer.to_str()
    return shorter


def pretrained(name: str, max_length: int) -> str:
    """The JSON of the tokenizer that belongs to a pretrained model.

    Args:
        name: a folder with a `tokenizer.json`, or a name on Hugging Face's hub.
        max_length: the largest number of tokens in a text; longer texts are truncated.

    Raises:
        UserError: the tokenizer does not exist, its token 0 is not padding, or an empty text has no tokens.
    """
    path = Path(name) / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the library has no base class of its errors
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.tokenizer={name}: no folder with a tokenizer.json, and not on the hub ({reason})."
        ) from error
    if "pad" not in (tokenizer.id_to_token(PAD) or "").lower():
        raise UserError(f"data.tokenizer={name}: its token 0 is not padding; choose another tokenizer.")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    content: str = tokenizer.to_str()
    try:
        tokens = TextTokenizer(content)
    except UserError as error:
        raise UserError(f"data.tokenizer={name}: it has no unknown token or no end token.") from error
    if tokens.encode([""]) == [[]]:
        raise UserError(f"data.tokenizer={name}: an empty text has no tokens; choose another tokenizer.")
    return content


def encoder_config(name: str) -> str:
    """Read the `config.json` of a pretrained encoder, from a folder or from Hugging Face's hub."""
    from huggingface_hub import hf_hub_download  # a dependency of tokenizers; the import takes a while

    path = Path(name) / "config.json"
    try:
        return (path if path.is_file() else Path(hf_hub_download(name, "config.json"))).read_text(encoding="utf-8")
    except Exception as error:  # of several libraries
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.tokenizer={name}: no folder with a config.json, and not on the hub ({reason})."
        ) from error


def train_tokenizer(texts: Sequence[str], kind: Kind, vocab_size: int, min_count: int, max_length: int) -> str:
    """Train a tokenizer, and return its JSON.

    Args:
        texts: the texts of the training split.
        kind: "characters"; "words" between spaces and punctuation, in lower case, and each punctuation mark; or
            "subwords", by byte-pair encoding (Sennrich et al. 2016).
        vocab_size: the largest number of tokens. Rarer tokens become `UNKNOWN`. The vocabulary of subwords has all
            letters, even if these are more.
        min_count: tokens with fewer occurrences become `UNKNOWN`.
        max_length: the largest number of tokens in a text, including `END`; longer texts are truncated.
    """
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "min_frequency": min_count,
        "special_tokens": SPECIAL,
        "show_progress": False,
    }
    if kind == "subwords":
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN], fuse_unk=True))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        tokenizer.decoder = decoders.Metaspace()
        trainer: Any = trainers.BpeTrainer(**options)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
        if kind == "words":
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        else:
            tokenizer.normalizer = normalizers.NFC()
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
            tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(**options)
    tokenizer.train_from_iterator(texts, trainer)
    end = SPECIAL[END]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, END)])
    tokenizer.enable_truncation(max_length)
    content: str = tokenizer.to_str()
    return content
