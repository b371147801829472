"""What is particular to texts: tokens, batches of about the same length, files that people have, recurrent nets."""

import csv
import importlib
import json
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import CONF
from test_resume import NUM_BATCHES, StopAt, outcome, same
from tokenizers import Tokenizer, models
from torch import nn

from lab import config, run, test, train
from lab.data import tokens
from lab.data.buckets import buckets
from lab.data.text import Ragged, WordDropout, emoji_names
from lab.errors import UserError
from lab.nets.ngrams import NGramEmbedding
from lab.nets.recurrent import Recurrent

QUICK = (
    "experiment=language_id", "data.tiny=true", "data.batch_size=100", "net.dropout=0.5", "data.word_dropout=0.2",
    "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false", "trainer.max_epochs=3",
)  # fmt: skip
TRANSLATION = (
    "experiment=translate_tatoeba", "data.tiny=true", "data.batch_size=50", "data.test_fraction=0.1", "net.width=16",
    "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false", "trainer.max_epochs=3",
)  # fmt: skip
TEXTS = ["the cat sat", "the dog sat down.", "größer 猫 🎬🏽", "مرحبا بالعالم", "a\nb", "<pad> & </s>"]


@pytest.mark.parametrize("kind", ["characters", "words", "subwords"])
class TestTokens:
    def test_a_text_comes_back(self, kind):
        coder = tokens.Tokens(tokens.train(TEXTS, kind, 500, 1, 64))
        back = coder.decode(coder.encode(TEXTS))
        if kind == "words":
            assert back[0] == TEXTS[0]
        else:
            assert [text.split() for text in back] == [text.split() for text in TEXTS]

    def test_every_text_ends_and_none_holds_padding(self, kind):
        coder = tokens.Tokens(tokens.train(TEXTS, kind, 500, 1, 64))
        strange = [*TEXTS, "", "x", "𓀀", "</s></s>", "\u202e\u0000\ufeff", " \n\t ", "e\u0301", "<s>" * 100]
        rows = coder.encode(strange)
        assert all(row[-1] == tokens.END and len(row) <= 64 for row in rows)
        assert not {tokens.PAD, tokens.START, tokens.END} & {i for row in rows for i in row[:-1]}
        assert rows[len(TEXTS)] == [tokens.END], "an empty text"
        assert max(i for row in rows for i in row) < coder.vocab_size

    def test_a_long_text_is_cut_soon(self, kind):
        coder = tokens.Tokens(tokens.train(TEXTS, kind, 500, 1, 8))
        begin = time.monotonic()
        rows = coder.encode(["the cat " * 12_500, "x" * 100_000])
        assert time.monotonic() - begin < 5
        assert len(rows[0]) == 8 >= len(rows[1])
        assert rows[0][-1] == tokens.END

    def test_rare_and_unseen_tokens_are_unknown_and_accents_are_composed(self, kind):
        coder = tokens.Tokens(tokens.train(["aé aé aé b"], kind, 500, 2, 64))
        assert tokens.UNKNOWN in coder.encode(["c" if kind == "subwords" else "b"])[0]
        assert coder.encode(["ae\u0301"]) == coder.encode(["aé"])
        assert tokens.UNKNOWN not in coder.encode(["aé"])[0]

    def test_the_same_texts_make_the_same_tokens(self, kind):
        texts = list(emoji_names()["🐶"].values()) * 2 + TEXTS
        assert len({tokens.train(texts, kind, 60, 1, 64) for _ in range(5)}) == 1


def test_decoding_stops_at_the_end():
    coder = tokens.Tokens(tokens.train(["ab"], "characters", 10, 1, 8))
    a, b, *_ = coder.encode(["ab"])[0]
    assert coder.decode([[tokens.START, a, b, tokens.END, b, tokens.PAD], [b]]) == ["ab", "b"]


@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_words_are_between_spaces_of_every_kind(kind):
    coder = tokens.Tokens(tokens.train(["ab\tcd ef\u3000gh\nij", "狗脸"], kind, 500, 1, 64))
    for text, num in {"ab\tcd ef\u3000gh\nij": 4, "狗脸": 0}.items():
        begins = [coder.begins_word[i] for i in coder.encode([text])[0]]
        assert sum(begins) == (num if kind == "characters" else text.count(" ") + 1)


def test_a_token_of_words_is_a_word_whatever_it_is():
    coder = tokens.Tokens(tokens.train(["see ## ▁ Title"], "words", 500, 1, 64))
    assert all(coder.begins_word)


def test_pieces_of_wordpiece_begin_no_word():
    piece = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "run": 3, "##ning": 4}, unk_token="[UNK]"))
    piece.add_special_tokens(["[PAD]", "[UNK]", "[SEP]"])
    assert tokens.Tokens(piece.to_str()).begins_word == [True, True, True, True, False]


WORDS = {
    "characters": [["a"], [" ", "b", "c", ","], [" ", "d", "e", "f"]],
    "words": [["a"], ["bc"], [","], ["def"]],
    "subwords": [["▁", "a"], ["▁", "b", "c", ","], ["▁", "d", "e", "f"]],
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_words_are_dropped_whole_and_one_stays(kind, share):
    coder = tokens.Tokens(tokens.train(["a bc, def", "f e d c b"], kind, 12, 1, 64))
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
    data = run.read_data(compose("experiment=language_id", "data.tiny=true", "data.word_dropout=0.9"))
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
    first = run.read_data(compose("experiment=language_id", "data.tiny=true", "data.tokens=words"))
    second = run.read_data(compose("experiment=language_id", "data.tiny=true", "data.max_length=3"))
    second.inherited = {"tokenizer": first.facts.tokenizer}
    second.splits, second.facts = {}, None
    second.setup()
    second.trainer = SimpleNamespace(training=True, current_epoch=0)
    token = second.splits["train"].__getitems__(range(200))["token"]
    assert token.shape[1] == 3 < first.splits["train"].length.max()
    assert second.on_after_batch_transfer({"token": token, "index": torch.arange(200)})["token"].shape == token.shape
    assert second.facts.vocab_size == first.facts.vocab_size


def test_padding_is_what_a_loop_would_fill_in():
    rows = [[5, 6, 7], [8], [9, 9], [4, 4, 4, 4]]
    ragged, index = Ragged.of(rows), [2, 0, 1]
    expected = torch.tensor([[*rows[i], 0, 0, 0][:3] for i in index])
    assert ragged[torch.tensor(index)].equal(expected)
    assert ragged.subset(torch.tensor(index))[torch.arange(3)].equal(expected)
    assert torch.from_numpy(tokens.padded([rows[i] for i in index])).equal(expected)


@pytest.mark.parametrize(("size", "most", "world"), [(8, None, 1), (8, None, 3), (50, None, 4), (8, 60, 1), (8, 60, 3)])
@pytest.mark.parametrize("num", [5, 97])
def test_every_sample_is_in_one_bucket(num, size, most, world):
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 40, (num,), generator=generator)
    orders = [torch.randperm(num, generator=generator) for _ in range(3)]
    cuts = [buckets(length, order, size, most, world) for order in orders]
    for batches in cuts:
        assert sorted(i for batch in batches for i in batch) == list(range(num))
        assert len(batches) % world == 0
        assert all(batches)
        longest = [length[batch].max() for batch in batches]
        assert longest == sorted(longest)
        if most is None:
            assert max(map(len, batches)) <= size
        else:
            assert all(len(batch) == 1 or len(batch) * n <= most for batch, n in zip(batches, longest, strict=True))
    assert len({tuple(map(len, batches)) for batches in cuts}) == 1, "the number of steps depends on the order"
    assert num == 5 or cuts[0] != cuts[1]


def test_a_process_has_a_batch_even_where_the_samples_hardly_suffice():
    for num, world in ((3, 2), (5, 4), (7, 7)):
        batches = buckets(torch.full((num,), 9), torch.arange(num), 1, 9, world)
        assert len(batches) == world
        assert all(batches)


@pytest.fixture(scope="module")
def names():
    config.quiet()
    return run.read_data(config.compose("train", ["experiment=language_id"]))


def padding(loader):
    token = [batch["token"] for batch in loader]
    return 1 - sum(t.count_nonzero() for t in token) / sum(t.numel() for t in token)


def test_less_than_a_tenth_of_the_tokens_are_padding(names):
    shuffled = names._loader(names.splits["train"], batch_size=names.batch_size, shuffle=True)
    assert padding(shuffled) > 0.4
    assert all(padding(loader) < 0.1 for loader in (names.train_dataloader(), names.test_dataloader()))


def test_as_many_tokens_in_a_batch_as_asked_for(names, monkeypatch):
    monkeypatch.setattr(names, "tokens_per_batch", 600)
    batches = list(names.train_dataloader())
    assert max(batch["token"].numel() for batch in batches) <= 600
    assert sum(len(batch["index"]) for batch in batches) == len(names.splits["train"])


def test_one_batch_is_learned_by_heart_if_it_stays_the_same(names, monkeypatch):
    monkeypatch.setattr(names, "trainer", SimpleNamespace(overfit_batches=1, global_rank=0, world_size=1))
    loader = names.train_dataloader()
    first = [batch["index"].tolist() for batch in loader]
    loader.batch_sampler.set_epoch(1)
    assert [batch["index"].tolist() for batch in loader] == first


def test_the_names_of_an_emoji_are_in_one_split(names):
    splits, languages = names.read_splits()
    assert len(languages) == 14
    owner = {(name, language): emoji for emoji, own in emoji_names().items() for language, name in own.items()}
    homes = {}
    for split, part in splits.items():
        for text, label in zip(part.text, part.label.tolist(), strict=True):
            homes.setdefault(owner[text, languages[label]], set()).add(split)
    assert len(homes) > 1900
    twice = [emoji for emoji, found in homes.items() if len(found) > 1]
    assert len(twice) < 10, "more than have a name that another emoji has in the same language"
    assert not any("skin tone" in text for part in splits.values() for text in part.text)


@pytest.mark.parametrize("words", [QUICK, TRANSLATION], ids=["language_id", "translate_tatoeba"])
def test_a_stopped_run_ends_as_one_that_was_not(monkeypatch, tmp_path, words):
    def lab_train(folder):
        train.main(config.compose("train", config.with_the_runs_own([*words, folder])))

    lab_train(f"run={tmp_path}/whole")
    with monkeypatch.context() as patch:
        patch.setattr(run, "build_trainer", with_callback(run.build_trainer, StopAt(NUM_BATCHES + 1, signal.SIGTERM)))
        with pytest.raises(SystemExit, match="143"):
            lab_train(f"run={tmp_path}/cut")
    lab_train(f"run={tmp_path}/cut")
    for part, other in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"), strict=True):
        assert same(part, other)


@pytest.mark.parametrize("words", [QUICK, TRANSLATION], ids=["language_id", "translate_tatoeba"])
def test_two_processes_score_as_one_does(lab, tmp_path, capsys, words):
    result = lab("train", *words, "trainer=ddp_cpu", f"run={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())["test"]
    capsys.readouterr()
    test.main(config.compose("test", [f"run={tmp_path}/run", "trainer=cpu"]))
    shown = dict(re.findall(r"(test/\S+) +(\d+\.\d+)", capsys.readouterr().out))
    assert len(shown) > 2
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(
        {name: results[name] for name in shown}, rel=1e-4, abs=1e-4
    )


def with_callback(build, callback):
    def built(*args):
        trainer = build(*args)
        trainer.callbacks.append(callback)
        return trainer

    return built


@pytest.mark.parametrize("words", [["experiment=sentiment"], ["experiment=sentiment", "data=text_folder", "net=gru"]])
def test_a_short_run_learns(trained, words):
    folder = trained(
        *words, "data.tiny=true", "ema=null", "trainer.max_epochs=8", "data.batch_size=16", "optimizer.lr=0.02"
    )
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["test/acc"] > 0.8
    _, data, _ = run.load(folder)
    data.setup()
    assert data.facts == data.found, "what a run remembers is not what its data gives"


ROWS = [(f"text {i}", "ab"[i % 2]) for i in range(40)]


def write(path, rows=ROWS, columns=("text", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, "excel-tab" if path.suffix == ".tsv" else "excel").writerows([columns, *rows])
    return path


def read(compose, root, *more):
    return run.read_data(compose("experiment=sentiment", f"data.root={root}", *more))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "CSV"])
def test_a_table_of_any_kind(compose, tmp_path, suffix):
    facts = [read(compose, write(tmp_path / f"x.{kind}")).facts for kind in ("csv", suffix)]
    assert facts[0] == facts[1]
    assert facts[0].num_samples == {"train": 28, "val": 6, "test": 6}
    assert facts[0].class_names == ["a", "b"]


def test_columns_of_any_name_and_splits_by_a_column(compose, tmp_path):
    columns, part = ("id", "body", "kind", "part"), ["train", "val", "test", "train"]
    words = ("data.text=body", "data.label=kind", "data.split=part", "data.val_fraction=0.9")
    rows = [(i, f"text {i}", "ab"[i // 4 % 2], part[i % 4]) for i in range(40)]
    path = write(tmp_path / "x.csv", rows, columns)
    data = read(compose, path, *words)
    assert data.facts.num_samples == {"train": 20, "val": 10, "test": 10}
    assert data.names["val"] == [f"text {i}" for i in range(1, 40, 4)]
    write(path, [*rows, (40, "text", "a", "dev")], columns)
    with pytest.raises(UserError, match="line 42 is of the split 'dev'; there are: train, val, test"):
        read(compose, path, *words)


def test_the_vocabulary_is_the_training_split_s(compose, tmp_path):
    rows = [(f"seen seen {part}", label, part) for part in ("train", "val", "test") for label in "ab" for _ in range(3)]
    path = write(tmp_path / "x.csv", rows, ("text", "label", "split"))
    data = read(compose, path, "data.split=split", "data.min_count=1")
    vocabulary = json.loads(data.facts.tokenizer)["model"]["vocab"]
    assert {"seen", "train"} <= set(vocabulary)
    assert not {"val", "test"} & set(vocabulary)


def test_splits_by_files_and_what_is_missing_is_drawn(compose, tmp_path):
    write(tmp_path / "x/train.jsonl")
    write(tmp_path / "x/test.csv", ROWS[:7])
    (tmp_path / "x/README.md").write_text("not a table")
    assert read(compose, tmp_path / "x").facts.num_samples == {"train": 34, "val": 6, "test": 7}


def test_groups_stay_whole_and_folds_cover_all(compose, tmp_path):
    path = write(tmp_path / "x.csv", [(t, c, str(i // 4)) for i, (t, c) in enumerate(ROWS)], ("text", "label", "who"))
    seen = []
    for fold in range(5):
        data = read(compose, path, "data.group=who", "cv=5", f"fold={fold}")
        groups = [{int(text.split()[1]) // 4 for text in names} for names in data.names.values()]
        assert sum(map(len, groups)) == 10
        seen += data.names["test"]
    assert sorted(seen) == sorted(text for text, _ in ROWS)


GOOD = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
BAD = {
    "x.csv": {
        "": "x.csv has no rows",
        "text,label\n": "x.csv has no rows",
        "text;label\na;b\n": "x.csv, line 2: unknown column text. Did you mean text;label",
        "body,label\na,b\n": "x.csv, line 2: unknown column text. There are: body, label",
        GOOD + "one cell\n": "x.csv, line 42 has 1 cells; the header has 2",
        GOOD + "a,b,c\n": "x.csv, line 42 has 3 cells; the header has 2",
        GOOD + "nothing,\n": "x.csv, line 42 has no label",
        GOOD + '"never closed,a\n': "x.csv, line 42 is damaged",
        GOOD.encode() + b"caf\xe9,a\n": r"x.csv, line 42 is not UTF-8 \(byte 4 of it\)",
        GOOD.encode("utf-16"): "x.csv, line 1 is not UTF-8",
        GOOD + "alone,c\n": "class 2 has 1 samples, too few",
    },
    "x.jsonl": {
        '{"text": "a", "label": "b"}\n{"text": "a", "lab\n': "x.jsonl, line 2 is damaged",
        '{"text": "a"}\n': "x.jsonl, line 1: unknown column label. There are: text",
        '{"text": null, "label": "b"}\n': "x.jsonl, line 1 has no text",
        '{"text": ["a"], "label": "b"}\n': "x.jsonl, line 1: text is no text, but list",
        '["a", "b"]\n': "x.jsonl, line 1 is no object",
        '{"text": "\\ud800", "label": "b"}\n': "x.jsonl, line 1: text is no Unicode",
        "[" * 100_000: "x.jsonl, line 1 is damaged",
    },
    "x.txt": {GOOD: "x.txt is to end in .csv, .tsv, .jsonl, .parquet"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in BAD.items() for text in texts], ids=range(19)
)
def test_what_is_wrong_with_a_table_is_said_in_a_line_that_names_the_row(compose, tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=BAD[name][content]) as error:
        read(compose, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_class_that_only_the_test_has_is_named_with_its_row(compose, tmp_path):
    write(tmp_path / "x/train.csv")
    write(tmp_path / "x/test.csv", [*ROWS[:3], ("text", "c")])
    with pytest.raises(UserError, match=r"test.csv, line 5 has the class 'c', which no training sample has"):
        read(compose, tmp_path / "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: None, "is not there"),
        (lambda x: x.mkdir(), "has no such file; expected one train"),
        (lambda x: write(x / "test.csv"), "has test.csv; expected one train"),
        (lambda x: [write(x / "train.csv"), write(x / "train.tsv")], "has train.csv, train.tsv; expected one train"),
    ],
)
def test_a_root_that_is_none(compose, tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        read(compose, tmp_path / "x")
    with pytest.raises(UserError, match=r"data.root=PATH"):
        run.read_data(compose("experiment=sentiment"))


def test_texts_of_every_kind_are_taken(compose, tmp_path):
    strange = ["", "x", "y" * 100_000, "🎬🏽👩‍🚀", "مرحبا", 'two\nlines, "quoted"', "\u202e\u0000", "<pad></s>"]
    data = read(compose, write(tmp_path / "x.csv", [*ROWS, *((text, "a") for text in strange)]))
    batches = [
        batch for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()) for batch in loader
    ]
    assert sum(len(batch["index"]) for batch in batches) == 48
    assert all((batch["token"][:, 0] != 0).all() for batch in batches)


def test_a_folder_of_files_for_each_class(compose, tmp_path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / "x" / label / "deeper").mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / label / f"{'deeper/' * (i % 3 == 0)}{i}.txt").write_text(text)
    facts = read(compose, tmp_path / "x", "data=text_folder").facts
    assert facts.num_samples == {"train": 28, "val": 6, "test": 6}
    (tmp_path / "x/b/1.txt").write_bytes(b"ok\n\xff")
    with pytest.raises(UserError, match=r"b/1.txt, line 2 is not UTF-8"):
        read(compose, tmp_path / "x", "data=text_folder")
    (tmp_path / "x/train").mkdir()
    with pytest.raises(UserError, match="expected train, with val and test or without"):
        read(compose, tmp_path / "x", "data=text_folder")
    (tmp_path / "y/a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"y has no .txt files"):
        read(compose, tmp_path / "y", "data=text_folder")


class TestPublicSets:
    def test_the_library_is_not_there(self, compose, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=r"data: imdb takes pip install 'lab\[datasets\]'"):
            run.read_data(compose("experiment=language_id", "data=imdb"))

    def test_neither_cache_nor_network(self, compose, monkeypatch):
        def load(path):
            raise ConnectionError(f"Couldn't reach\n{path}")

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
        with pytest.raises(
            UserError, match=r"ag_news is not in the cache .*reach fancyzhx/ag_news.*tiny=true needs none"
        ):
            run.read_data(compose("experiment=language_id", "data=ag_news"))


def test_the_bench_has_a_baseline_for_each_of_its_experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(CONF.parent / "bench"))
    words = importlib.import_module("words")
    assert all(1 / 3 < words.baseline(experiment, ["data.tiny=true"]) <= 1 for experiment in words.NGRAMS)


CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def test_a_token_s_vector_is_that_of_the_n_grams_that_end_with_it_too():
    net = NGramEmbedding(10, 4, ngrams=3, num_buckets=50)
    first, _, _, fourth, _ = net(torch.tensor([[5, 6, 7, 5, 6]]))[0]
    for vector, ngrams in ((first, [(0, 5), (0, 0, 5)]), (fourth, [(7, 5), (6, 7, 5)])):
        torch.testing.assert_close(vector, net.weight[5] + sum(net.weight[10 + code(ngram) % 50] for ngram in ngrams))
    assert NGramEmbedding(10, 4, ngrams=1, num_buckets=50).weight.shape == (10, 4)


def code(ngram):
    """Its hash, the latest token first."""
    *before, latest = ngram
    for token in reversed(before):
        latest = (latest * 2_654_435_761 + token) % (2**31 - 1)
    return latest


@pytest.mark.parametrize("num_buckets", [20_000, 2**14, 150_000])
@pytest.mark.parametrize("n", [2, 3])
def test_n_grams_are_spread_over_all_buckets(monkeypatch, num_buckets, n):
    looked_up = []
    monkeypatch.setattr(nn.Embedding, "forward", lambda self, token: looked_up.append(token) or token)
    letters = torch.cartesian_prod(*[torch.arange(4, 4 + round(10_000 ** (1 / n)))] * n)
    NGramEmbedding(200, 1, n, num_buckets)(letters)
    used = len(looked_up[-1][:, -1].unique())
    expected = num_buckets * (1 - (1 - 1 / num_buckets) ** len(letters))
    assert used > 0.95 * expected


@pytest.mark.parametrize("cell", CELLS)
class TestRecurrent:
    @pytest.mark.parametrize("ngrams", [1, 3])
    def test_padding_changes_no_answer(self, cell, ngrams):
        torch.manual_seed(0)
        net = Recurrent(3, 20, cell, num_layers=2, ngrams=ngrams).eval()
        token = torch.randint(1, 20, (2, 7))
        token[1, 4:] = 0
        padded = torch.cat([token, torch.zeros(2, 30, dtype=torch.int64)], 1)
        torch.testing.assert_close(net(padded), net(token), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(net(token)[1:], net(token[1:, :4]), atol=1e-6, rtol=1e-6)
        token[1, 3] = 7
        assert not net(padded)[1].allclose(net(token)[1])

    def test_both_directions_are_torchs(self, cell):
        torch.manual_seed(0)
        net = Recurrent(3, 20, cell, embedding_dim=6, hidden=5).eval()
        both = CELLS[cell](6, 5, batch_first=True, bidirectional=True)
        states = net.from_start[0].state_dict() | {f"{k}_reverse": v for k, v in net.from_end[0].state_dict().items()}
        both.load_state_dict(states)
        kept = []
        net.attention.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        token = torch.randint(1, 20, (2, 7))
        net(token)
        torch.testing.assert_close(kept[0], both(net.embedding(token))[0])

    @pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's own, of what it restores
    def test_it_is_exported(self, cell):
        net, token = Recurrent(3, 20, cell, ngrams=4).eval(), torch.randint(1, 20, (3, 8))
        token[1, 2:] = 0
        shapes = {"token": {0: torch.export.Dim("batch", min=1)}}
        exported = torch.export.export(net, (token,), dynamic_shapes=shapes).module()
        for some in (token, token[1:2], token.repeat(5, 1)):
            torch.testing.assert_close(exported(some), net(some))
