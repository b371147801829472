"""Tokenizers split texts, and words are dropped in training."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models

from lab.build import read_data
from lab.data.text import Ragged, WordDropout, emoji_names
from lab.engine.errors import UserError
from lab.features import tokens
from lab.features.text import Text
from lab.testing import FeatureContract

TEXTS = ["the cat sat", "the dog sat down.", "größer 猫 🎬🏽", "مرحبا بالعالم", "a\nb", "<pad> & </s>"]


@pytest.mark.parametrize("kind", ["characters", "words", "subwords"])
class TestTokens:
    def test_a_text_comes_back(self, kind):
        coder = tokens.TextTokenizer(tokens.train_tokenizer(TEXTS, kind, 500, 1, 64))
        back = coder.decode(coder.encode(TEXTS))
        if kind == "words":
            assert back[0] == TEXTS[0]
        else:
            assert [text.split() for text in back] == [text.split() for text in TEXTS]

    def test_every_text_ends_and_none_holds_padding(self, kind):
        coder = tokens.TextTokenizer(tokens.train_tokenizer(TEXTS, kind, 500, 1, 64))
        strange = [*TEXTS, "", "x", "𓀀", "</s></s>", "\u202e\u0000\ufeff", " \n\t ", "e\u0301", "<s>" * 100]
        rows = coder.encode(strange)
        assert all(row[-1] == tokens.END and len(row) <= 64 for row in rows)
        assert not {tokens.PAD, tokens.START, tokens.END} & {i for row in rows for i in row[:-1]}
        assert rows[len(TEXTS)] == [tokens.END], "an empty text"
        assert max(i for row in rows for i in row) < coder.vocab_size

    def test_a_long_text_is_cut_soon(self, kind):
        coder = tokens.TextTokenizer(tokens.train_tokenizer(TEXTS, kind, 500, 1, 8))
        begin = time.monotonic()
        rows = coder.encode(["the cat " * 12_500, "x" * 100_000])
        assert time.monotonic() - begin < 5
        assert len(rows[0]) == 8 >= len(rows[1])
        assert rows[0][-1] == tokens.END

    def test_rare_and_unseen_tokens_are_unknown_and_accents_are_composed(self, kind):
        coder = tokens.TextTokenizer(tokens.train_tokenizer(["aé aé aé b"], kind, 500, 2, 64))
        assert tokens.UNKNOWN in coder.encode(["c" if kind == "subwords" else "b"])[0]
        assert coder.encode(["ae\u0301"]) == coder.encode(["aé"])
        assert tokens.UNKNOWN not in coder.encode(["aé"])[0]

    def test_the_same_texts_make_the_same_tokens(self, kind):
        texts = list(emoji_names()["🐶"].values()) * 2 + TEXTS
        assert len({tokens.train_tokenizer(texts, kind, 60, 1, 64) for _ in range(5)}) == 1


class TestText(FeatureContract):
    feature = Text(tokens.train_tokenizer(TEXTS, "words", 50, 1, 4), 4)
    contents = (b"the cat sat", "größer".encode(), b"")
    garbage = (b"\x00\xff\xfe garbage \x80", "the cat".encode("utf-16"))
    samples = (feature.decode(b"the cat sat", 1), feature.decode(b"<b> dog", 1))


def without_unknown(own):
    own["model"]["unk_token"] = None


def of_another_name(own):
    own["model"]["unk_token"] = "nobody"


def without_end(own):
    own["model"]["vocab"] = {"other" if name == "</s>" else name: i for name, i in own["model"]["vocab"].items()}
    own["added_tokens"] = own["added_tokens"][:2]


@pytest.mark.parametrize("kind", ["characters", "words", "subwords"])
@pytest.mark.parametrize(
    "spoil",
    [without_unknown, of_another_name, without_end, lambda own: own.pop("added_tokens"), lambda own: own.pop("model")],
)
def test_a_tokenizer_that_lacks_something_is_damaged(kind, spoil):
    own = json.loads(tokens.train_tokenizer(["a b", "c"], kind, 50, 1, 9))
    spoil(own)
    for build in (
        tokens.TextTokenizer,
        lambda content: Text(content, 9).facts(),
        lambda content: Text(content, 9).example(),
    ):
        with pytest.raises(UserError, match="^data: the tokenizer is damaged ") as error:
            build(json.dumps(own))
        assert len(str(error.value).splitlines()) == 1


def test_decoding_stops_at_the_end():
    coder = tokens.TextTokenizer(tokens.train_tokenizer(["ab"], "characters", 10, 1, 8))
    a, b, *_ = coder.encode(["ab"])[0]
    assert coder.decode([[tokens.START, a, b, tokens.END, b, tokens.PAD], [b]]) == ["ab", "b"]


@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_words_are_between_spaces_of_every_kind(kind):
    coder = tokens.TextTokenizer(tokens.train_tokenizer(["ab\tcd ef\u3000gh\nij", "狗脸"], kind, 500, 1, 64))
    for text, num in {"ab\tcd ef\u3000gh\nij": 4, "狗脸": 0}.items():
        begins = [coder.begins_word[i] for i in coder.encode([text])[0]]
        assert sum(begins) == (num if kind == "characters" else text.count(" ") + 1)


def test_a_token_of_words_is_a_word_whatever_it_is():
    coder = tokens.TextTokenizer(tokens.train_tokenizer(["see ## ▁ Title"], "words", 500, 1, 64))
    assert all(coder.begins_word)


def test_pieces_of_wordpiece_begin_no_word():
    piece = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "run": 3, "##ning": 4}, unk_token="[UNK]"))
    piece.add_special_tokens(["[PAD]", "[UNK]", "[SEP]"])
    assert tokens.TextTokenizer(piece.to_str()).begins_word == [True, True, True, True, False]


WORDS = {
    "characters": [["a"], [" ", "b", "c", ","], [" ", "d", "e", "f"]],
    "words": [["a"], ["bc"], [","], ["def"]],
    "subwords": [["▁", "a"], ["▁", "b", "c", ","], ["▁", "d", "e", "f"]],
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_words_are_dropped_whole_and_one_stays(kind, share):
    coder = tokens.TextTokenizer(tokens.train_tokenizer(["a bc, def", "f e d c b"], kind, 12, 1, 64))
    token = torch.tensor(coder.encode(["a bc, def"])).expand(4000, -1)
    assert coder.pieces(token[0])[:-1] == [piece.replace("▁", " ") for word in WORDS[kind] for piece in word]
    random = torch.rand(4000, token.shape[1] + 1, generator=torch.Generator().manual_seed(0))
    dropped = WordDropout(coder, share)(token, random) == tokens.UNKNOWN
    assert not dropped[:, -1].any(), "the end"
    parts = dropped[:, :-1].split(list(map(len, WORDS[kind])), 1)
    gone = torch.stack([part.all(1) for part in parts], 1)
    assert gone.equal(torch.stack([part.any(1) for part in parts], 1)), "half a word"
    assert not gone.all(1).any()
    num = len(parts)
    assert gone.double().mean() == pytest.approx(share - share**num / num, abs=0.02)


def test_words_are_dropped_in_training_alone_whatever_the_batch(compose):
    data = read_data(compose("experiment=language_id", "data.tiny=true", "data.word_dropout=0.9"))
    data.setup()
    batch = data.splits["train"].__getitems__([3, 20, 7, 11])
    assert data.on_after_batch_transfer(batch)["token"].equal(batch["token"])
    data.trainer = SimpleNamespace(training=True, current_epoch=2)
    together = data.on_after_batch_transfer(batch)["token"]
    assert not together.equal(batch["token"])
    for row, index in zip(together, batch["index"].tolist(), strict=True):
        (alone,) = data.on_after_batch_transfer(data.splits["train"].__getitems__([index]))["token"]
        assert alone.equal(row[: len(alone)])
    data.trainer.current_epoch = 3
    assert not data.on_after_batch_transfer(batch)["token"].equal(together)
    data.trainer.training = False
    assert data.on_after_batch_transfer(batch)["token"].equal(batch["token"])


def test_an_inherited_tokenizer_cuts_where_the_data_says(compose):
    first = read_data(compose("experiment=language_id", "data.tiny=true", "data.tokens=words"))
    second = read_data(compose("experiment=language_id", "data.tiny=true", "data.max_length=3"))
    second.inherited = first.facts
    second.splits, second.facts = {}, None
    second.setup()
    second.trainer = SimpleNamespace(training=True, current_epoch=0)
    token = second.splits["train"].__getitems__(range(200))["token"]
    assert token.shape[1] == 3 < first.splits["train"].length.max()
    assert second.on_after_batch_transfer({"token": token, "index": torch.arange(200)})["token"].shape == token.shape
    assert second.facts.features["text"].vocab_size == first.facts.features["text"].vocab_size


def test_padding_is_what_a_loop_would_fill_in():
    rows = [[5, 6, 7], [8], [9, 9], [4, 4, 4, 4]]
    ragged, index = Ragged.of(rows), [2, 0, 1]
    expected = torch.tensor([[*rows[i], 0, 0, 0][:3] for i in index])
    assert ragged[torch.tensor(index)].equal(expected)
    assert ragged.subset(torch.tensor(index))[torch.arange(3)].equal(expected)
    assert torch.from_numpy(tokens.padded([rows[i] for i in index])).equal(expected)
