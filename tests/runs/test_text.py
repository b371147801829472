"""Runs on texts: batches of similar length, resuming, several processes."""

import json
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from resuming import outcome, stopped
from steps import Rows

from lab import runs, train
from lab.build import init_from_data, read_data
from lab.data.buckets import buckets
from lab.data.text import emoji_names
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.training.lightning_quirks import filter_warnings
from lab.nets.ngrams import NGramLinear
from lab.nets.recurrent import Recurrent
from lab.runs.open import Run
from lab.testing.tasks import same
from lab.train import prepare
from lab.verbs import test

QUICK = (
    "experiment=language_id", "data.tiny=true", "data.batch_size=100", "net.dropout=0.5", "data.word_dropout=0.2",
    "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false", "trainer.max_epochs=3",
)  # fmt: skip
TRANSLATION = (
    "experiment=translate_tatoeba", "data.tiny=true", "data.batch_size=50", "data.test_fraction=0.1", "net.width=16",
    "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false", "trainer.max_epochs=3",
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "most", "world"),
    [(8, None, 1), (8, None, 3), (50, None, 4), (None, 60, 1), (None, 60, 3), (4, 60, 1), (4, 60, 3)],
)
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
        if size is not None:
            assert max(map(len, batches)) <= size
        if most is not None:
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
    filter_warnings()
    return read_data(compose_config("train", ["experiment=language_id"]))


def padding(loader):
    token = [batch["token"] for batch in loader]
    return 1 - sum(t.count_nonzero() for t in token) / sum(t.numel() for t in token)


def test_less_than_a_tenth_of_the_tokens_are_padding(names):
    train = names.splits["train"]
    shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).split(names.batch_size)
    assert padding(train.__getitems__(index.tolist()) for index in shuffled) > 0.4
    assert all(
        padding(loader) < 0.1 for loader in (names.train_dataloader(), names.val_dataloader(), names.test_dataloader())
    )


def test_an_evaluation_batch_has_no_more_samples_than_asked_for(names):
    for loader in (names.val_dataloader(), names.test_dataloader()):
        sizes = [len(batch["index"]) for batch in loader]
        assert min(sizes) < max(sizes) == names.batch_size


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
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path, words):
    def lab_train(folder):
        train.main(compose_config("train", add_run_overrides([*words, folder])))

    lab_train(f"run={tmp_path}/whole")
    stopped(5, signal.SIGTERM, f"run={tmp_path}/cut", start=lab_train)
    lab_train(f"run={tmp_path}/cut")
    for part, other in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"), strict=True):
        assert same(part, other)


@pytest.mark.parametrize("words", [QUICK, TRANSLATION], ids=["language_id", "translate_tatoeba"])
def test_two_processes_score_as_one_does(lab, tmp_path, capsys, words):
    result = lab("train", *words, "trainer=ddp_cpu", f"run={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "run/results.json").read_text())["test"]
    capsys.readouterr()
    test.main(compose_config("test", [f"run={tmp_path}/run", "trainer=cpu"]))
    shown = dict(re.findall(r"(test/\S+) +(\d+\.\d+)", capsys.readouterr().out))
    assert len(shown) > 2
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(
        {name: results[name] for name in shown}, rel=1e-4, abs=1e-4
    )


@pytest.mark.parametrize("words", [["net=lstm"], ["data=text_folder", "net=gru"]])
def test_a_short_run_learns(trained, words):
    quick = ("data.tiny=true", "ema=null", "trainer.max_epochs=8", "data.batch_size=16", "optimizer.lr=0.02")
    folder = trained("experiment=sentiment", *words, *quick)
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["test/acc"] > 0.8
    _, data, _ = runs.load(folder)
    data.setup()
    assert data.facts == data.found, "what a run remembers is not what its data gives"


def test_linear_logits_start_at_what_the_training_split_says_or_where_the_run_before_ended(compose, trained):
    words = ("experiment=sentiment", "data.tiny=true", "trainer.max_epochs=2")
    data, task = prepare(Run(compose(*words)))
    everything = data.splits["train"].__getitems__(list(range(len(data.splits["train"]))))
    right = task.net.linear.eval()(everything["token"]).argmax(1) == everything["label"]
    assert right.float().mean() > 0.95
    folder = trained(*words)
    _, finetuned = prepare(Run(compose(*words, f"finetune={folder}")))
    _, _, ended = runs.load(folder)
    weight = ended.net.linear.embedding.weight
    assert finetuned.net.linear.embedding.weight.equal(weight)
    assert not weight.equal(task.net.linear.embedding.weight)


def test_linear_logits_start_at_what_all_texts_say(names):
    sizes = names.facts.features["text"].vocab_size, names.facts.features["label"].num_classes
    own, expected = (NGramLinear(*sizes, 2, 1000, 0.0) for _ in range(2))
    init_from_data(own, names)
    split = names.splits["train"]
    assert len(split) > 1000, "the count is in several parts"
    expected.init_from(Rows(**split.__getitems__(list(range(len(split))))))
    assert own.embedding.weight.equal(expected.embedding.weight)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch's own, of what it restores
@pytest.mark.filterwarnings("ignore:_check_is_size")  # its own, in a process that has made an ONNX file of a GRU
def test_a_recurrent_net_is_exported(cell):
    net, token = Recurrent(3, 20, cell, ngrams=4).eval(), torch.randint(1, 20, (3, 8))
    token[1, 2:] = 0
    shapes = {"token": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        exported = torch.export.export(net, (token,), dynamic_shapes=shapes).module()
    for some in (token, token[1:2], token.repeat(5, 1)):
        torch.testing.assert_close(exported(some), net(some))
