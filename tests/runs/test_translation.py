"""Translation: nets that are asked token by token, the search, pairs of texts, and what is reported of it all."""

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import sacrebleu
import torch
from omegaconf import OmegaConf
from torch import nn
from torchmetrics.utilities import dim_zero_cat

from lab import runs, train
from lab.build import read_data
from lab.data.buckets import buckets
from lab.data.facts import stored_facts
from lab.data.pairs import Pairs
from lab.data.translation import EmojiTranslations, related
from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.engine.markdown import table
from lab.engine.training.lightning_quirks import filter_warnings
from lab.features.text import Text
from lab.metrics.translation import BLEU, rows
from lab.nets.seq2seq import Seq2Seq
from lab.nets.transformer_seq2seq import TransformerSeq2Seq
from lab.tasks.added_metrics import added_metrics
from lab.tasks.beam_search import beam_search, greedy
from lab.testing.base import build, compose, read
from lab.verbs import predictor, test
from lab.verbs.export import comparison
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict

PAD, START, END = 0, 2, 3
NETS = {
    "gru": lambda: Seq2Seq(20, 15, "gru", width=16),
    "lstm": lambda: Seq2Seq(20, 15, "lstm", width=16, num_layers=2),
    "transformer": lambda: TransformerSeq2Seq(20, 15, width=16, num_heads=2),
    "shared": lambda: TransformerSeq2Seq(15, 15, shared_vocabulary=True, width=16, num_heads=2),
}
SMALL = {"tokens": "words", "val_fraction": 0.2, "test_fraction": 0.2, "batch_size": 8}


@pytest.fixture(params=NETS)
def net(request):
    """With weights so large that it is sure of what it says, and says many things."""
    torch.manual_seed(0)
    net = NETS[request.param]().eval()
    for name, p in net.named_parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.1 if "embed" in name else 1.0)
    return net


def sources(num=64, longest=12):
    """Sources of all lengths, padded."""
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(4, 15, (num, longest), generator=generator)
    return token * (torch.arange(longest) <= torch.arange(num)[:, None] % longest)


def ended(row):
    """A row without its padding."""
    return [i for i in row.tolist() if i != PAD]


def test_no_target_token_sees_a_later_one(net):
    target = torch.randint(4, 15, (8, 7))
    other = target.clone()
    other[:, 4:] = 5
    before, after = (net(sources(8), each) for each in (target, other))
    assert before[:, :4].equal(after[:, :4])
    assert not before[:, 4:].isclose(after[:, 4:]).all()


def test_decoding_with_a_cache_says_what_decoding_without_one_says_token_for_token(net):
    token = sources()
    target = torch.full((len(token), 1), START)
    for _ in range(20):  # all of it again, for each token
        target = torch.cat([target, net(token, target)[:, -1:, 3:].argmax(-1) + 3], 1)
    found = greedy(net, token, 20)
    assert len({tuple(row) for row in found.tolist()}) > 20, "it says few things: little is shown"
    for row, whole in zip(found, target[:, 1:].tolist(), strict=True):
        assert ended(row) == whole[: whole.index(END) + 1 if END in whole else None]


def test_a_beam_of_one_is_greedy(net):
    assert beam_search(net, sources(), 20, 1).equal(greedy(net, sources(), 20))


@pytest.mark.parametrize("search", [greedy, lambda net, token, length: beam_search(net, token, length, 4)])
def test_a_sentence_is_translated_alone_as_among_others(net, search):
    token = sources()
    for source, row in list(zip(token, search(net, token, 20), strict=True))[::5]:
        assert ended(search(net, source[source != PAD][None], 20)[0]) == ended(row)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_everything_finds_the_best_there_is(net, length_penalty):
    def value(source, said):
        logits = net(source, torch.tensor([[START, *said[:-1]]]))
        sums = logits[0].log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum().item()
        return sums / ((5 + len(said)) / 6) ** length_penalty

    known = range(4, 15)
    every = [[*words, END] for n in range(3) for words in itertools.product(known, repeat=n)]
    for source, row in zip(sources(4), beam_search(net, sources(4), 3, 1500, length_penalty), strict=True):
        assert ended(row) == max(every, key=lambda said: value(source[source != PAD][None], said))


def plain_beam_search(net, source, beam_size, max_length, length_penalty):
    """The same for one sentence, without a cache, beginning by beginning."""
    beams, answers = [(0.0, [START])], []
    for n in range(1, max_length + 1):
        longer = []
        for score, said in beams:
            logits = net(source, torch.tensor([said]))[0, -1].log_softmax(-1)
            longer += [(score + logits[i].item(), [*said, i]) for i in range(END, 15)]
        longer.sort(key=lambda one: -one[0])
        ends = [
            (score / ((5 + n) / 6) ** length_penalty, said) for score, said in longer[:beam_size] if said[-1] == END
        ]
        answers = (answers + ends)[:beam_size]
        if len(answers) == beam_size:
            break
        beams = [one for one in longer if one[1][-1] != END][:beam_size]
    return (max(answers) if answers else beams[0])[1][1:]


@pytest.mark.parametrize("length_penalty", [0.0, 3.0])
def test_a_beam_search_is_that_of_each_sentence_alone_without_a_cache(net, length_penalty):
    token = sources(24)
    found = [ended(row) for row in beam_search(net, token, 10, 3, length_penalty)]
    for source, said in zip(token, found, strict=True):
        assert said == plain_beam_search(net, source[source != PAD][None], 3, 10, length_penalty)
    assert len(set(map(len, found))) > 1, "all are of about one length: little is shown"


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_search_stops_when_every_sentence_has_ended(beam_size):
    class Ending(nn.Module):
        """Says `</s>`, and nothing else, after as many tokens as its source has."""

        steps = 0

        def encode(self, token, max_length):
            return {}, {"left": (token != PAD).sum(1)}

        def decode(self, target, memory, state):
            self.steps += 1
            logits = torch.zeros(len(target), 15)
            logits[state["left"] <= 0, END] = 50.0
            logits[:, 7] = 25.0
            return logits, {"left": state["left"] - 1}

    net = Ending()
    found = beam_search(net, sources(12), 1000, beam_size) if beam_size > 1 else greedy(net, sources(12), 1000)
    assert net.steps < 40
    assert [ended(row) for row in found] == [[7] * n + [END] for n in range(1, 13)]


def test_attention_is_a_share_of_each_source_token(net):
    token = sources(12)
    weights = net.attention(token, torch.randint(4, 15, (12, 5)))
    torch.testing.assert_close(weights.sum(-1), torch.ones(12, 5))
    assert not weights[(token == PAD)[:, None].expand_as(weights)].any()


# the data


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


PAIRS = [("Go.", "Va !"), ("“Hi”, he said.", "« Salut », dit-il."), ("مرحبا 👋", "¡Hola!\u2028¿Qué?"), ("a", "")]
HEADER = {"source": "en", "target": "fr"}


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("fra.txt", "".join(f"{s}\t{t}\tCC-BY 2.0\n" for s, t in PAIRS), {"source": 1, "target": 2}),
        ("p.tsv", "fr\ten\n" + "".join(f"{t}\t{s}\n" for s, t in PAIRS), HEADER),
        ("p.csv", "en,fr\n" + "".join(f'"{s}","{t}"\n' for s, t in PAIRS), HEADER),
        ("p.jsonl", "".join(json.dumps({"en": s, "fr": t}) + "\n" for s, t in PAIRS), HEADER),
        ("train.en", "".join(f"{s}\r\n" for s, _ in PAIRS), HEADER),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 9 else "",
)
def test_pairs_are_read_from_every_kind_of_file(tmp_path, name, content, columns):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    (tmp_path / "train.fr").write_text("".join(f"{t}\n" for _, t in PAIRS), encoding="utf-8")
    assert Pairs(str(tmp_path / name), **columns, **SMALL).read_pairs() == {"train": PAIRS}
    short = Pairs(str(tmp_path / name), **columns, max_characters=4, **SMALL).read_pairs()
    assert short == {"train": [PAIRS[0], PAIRS[3]]}


def test_published_splits_stay_as_they_are(tmp_path):
    text = {"train_en": "a\nb\nc\n", "train_de": "A\nB\nC\n", "val_en": "a\n", "val_de": "A\n"}
    root = written(tmp_path / "set", **text, **{"test_2016_flickr_en": "d\n", "test_2016_flickr_de": "D\n"})
    for path in root.glob("test*"):
        path.rename(root / f"test_2016_flickr{path.suffix}")
    data = Pairs(str(root), "en", "de", **SMALL)
    data.setup()
    assert {name: list(split) for name, split in data.names.items()} == {
        "train": ["a", "b", "c"],
        "val": ["a"],
        "test": ["d"],
    }
    (root / "test_2017.en").write_text("e\n")
    with pytest.raises(UserError, match=r"has test_2016_flickr.en, test_2017.en; expected one file, of .*\.en"):
        Pairs(str(root), "en", "de", **SMALL).read_pairs()


@pytest.mark.parametrize(
    ("files", "root", "columns", "line"),
    [
        ({}, "gone.txt", (1, 2), r"data.root: .*gone.txt does not exist"),
        ({"a_txt": "x\ty\nz\n"}, "a.txt", (1, 2), r"a.txt, line 2 has 1 columns, but not 1 and 2"),
        ({"a_txt": "x\ty\n"}, "a.txt", ("en", 2), r"a.txt has no header; number its columns"),
        ({"a_txt": ""}, "a.txt", (1, 2), "there are no pairs"),
        ({"a_csv": "en,fr\nx,y\n"}, "a.csv", ("en", "de"), r"a.csv: unknown column de"),
        ({"a_jsonl": '{"en": "x", "fr": "y"}\n{"en"'}, "a.jsonl", ("en", "fr"), "a.jsonl, line 2 is damaged"),
        ({"a_en": "x\ny\n", "a_fr": "x\n"}, "a.en", ("en", "fr"), r"a.en has 2 lines, .*a.fr 1; expected as many"),
        ({"a_en": "x\n"}, "a.en", ("en", "fr"), r"a.fr can't be read \(No such file"),
        ({"val_en": "x\n"}, "", ("en", "fr"), r"has no train\*; expected one file"),
        ({"a_pdf": "x\n"}, "a.pdf", ("en", "fr"), r"a.pdf: expected a file that ends in .*csv"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, files, root, columns, line):
    folder = written(tmp_path / "set", **files)
    with pytest.raises(UserError, match=line) as error:
        Pairs(str(folder / root), *columns, **SMALL).setup()
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf_8_are_named_by_their_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("x\ty\né\tz\n".encode("latin-1"))
    with pytest.raises(UserError, match="a.txt, line 2 is not UTF-8"):
        Pairs(str(tmp_path / "a.txt"), 1, 2, **SMALL).setup()


def test_related_pairs_have_a_source_or_a_target_in_common_or_others_between_them():
    pairs = [("a", "1"), ("b", "2"), ("b", "1"), ("c", "3"), ("d", "a"), ("1", "3")]
    group = related(pairs)
    assert group[0] == group[1] == group[2]
    assert group[3] == group[5]
    assert len(set(group)) == 3


def test_drawn_splits_share_no_source_and_no_target(tmp_path):
    lines = "".join(f"{i // 3}\t{i // 2}\n" for i in range(600))  # chains of six
    (tmp_path / "a.txt").write_text(lines)
    data = Pairs(str(tmp_path / "a.txt"), 1, 2, **SMALL)
    splits = data.split_pairs(data.read_pairs())
    assert {name: len(split) for name, split in splits.items()} == {"train": 360, "val": 120, "test": 120}
    for one, other in itertools.combinations(splits.values(), 2):
        for side in (0, 1):
            assert not {pair[side] for pair in one} & {pair[side] for pair in other}
    again = Pairs(str(tmp_path / "a.txt"), 1, 2, **SMALL, split_seed=1)
    assert again.split_pairs(again.read_pairs()) != splits


def test_each_target_begins_and_ends_and_each_source_ends():
    data = EmojiTranslations("en", "de", **SMALL, tiny=True)
    data.setup()
    source, target = (data.facts.features[name].tokens for name in ("text", "target"))
    seen = 0
    for batch in data.val_dataloader():
        for name, start in (("token", []), ("target", [START])):
            for row in map(ended, batch[name]):
                assert row[: len(start)] == start
                assert row.index(END) == len(row) - 1
        names = [data.names["val"][i] for i in batch["index"].tolist()]
        words = [text.split() for text in source.decode(batch["token"].tolist())]
        assert all(len(w) >= len(name.split()) for w, name in zip(words, names, strict=True))
        assert batch["target"].shape[1] - 1 <= data.facts.features["target"].max_length
        seen += len(names)
    assert seen == data.facts.num_samples["val"]
    assert target.vocab_size != source.vocab_size


def test_a_runs_own_texts_stay_whatever_its_data_becomes():
    data = EmojiTranslations("en", "de", **SMALL, tiny=True)
    data.setup()
    target = replace(data.facts.features["target"], max_length=99)
    own = replace(data.facts, features=data.facts.features | {"target": target})
    for facts, inherited in ((own, None), (None, own)):
        again = EmojiTranslations("de", "en", **SMALL, tiny=True)
        again.facts, again.inherited = facts, inherited
        again.setup()
        for name, feature in again.found.features.items():
            assert feature.tokenizer == own.features[name].tokenizer
        assert (again.found.features["target"].max_length == 99) is (facts is not None)


@pytest.mark.parametrize("max_length", [128, 5])
@pytest.mark.parametrize("was_shared", [True, False])
@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_two_vocabularies_of_another_run_are_not_shared(kind, was_shared, max_length):
    settings = SMALL | {"tokens": kind, "tiny": True}
    before = EmojiTranslations("en", "de", **settings, shared_vocabulary=was_shared)
    before.setup()
    data = EmojiTranslations("en", "de", **settings, shared_vocabulary=True, max_length=max_length)
    data.inherited = before.facts
    if was_shared:
        data.setup()
        text, target = (data.facts.features[name] for name in ("text", "target"))
        assert text.tokenizer == target.tokenizer
    else:
        with pytest.raises(UserError, match="^data.shared_vocabulary: the run .* has two vocabularies; leave it out.$"):
            data.setup()


@pytest.mark.parametrize("tokens_per_batch", [None, 400])
def test_batches_of_pairs_are_of_about_one_length_on_both_sides(tokens_per_batch):
    length = torch.randint(3, 13, (4000, 2), generator=torch.Generator().manual_seed(0))
    batches = buckets(length, torch.randperm(4000), 32, tokens_per_batch)
    assert sorted(i for batch in batches for i in batch) == list(range(4000))
    sizes = [length[batch].amax(0) * len(batch) for batch in batches]
    assert length.sum() > 0.9 * torch.stack(sizes).sum()
    if tokens_per_batch:
        assert 300 < max(size.max() for size in sizes) <= tokens_per_batch


def test_an_unknown_language_is_refused():
    with pytest.raises(UserError, match=r"data.target: unknown language xx; expected .*de, en"):
        EmojiTranslations("en", "xx", **SMALL, tiny=True).setup()


# the task


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of a run that has learned 200 made-up pairs."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    words = [
        "experiment=translate_tatoeba", "data.tiny=true", "data.batch_size=8", "net.width=64", "optimizer.lr=0.01",
        "data.val_fraction=0.1", "data.test_fraction=0.1", "trainer.max_epochs=6", "trainer=cpu",
        "trainer.enable_progress_bar=false", f"run={folder}",
    ]  # fmt: skip
    filter_warnings()
    train.main(compose_config("train", words))
    return folder


def test_a_short_run_learns_to_translate(learned):
    results = json.loads((learned / "results.json").read_text())
    assert results["test"]["test/bleu"] > 60
    assert results["test"]["test/acc"] > 0.9


def test_scores_are_sacrebleu_s_of_what_was_written(learned):
    results = json.loads((learned / "results.json").read_text())["test"]
    rows = list(csv.DictReader((learned / "test_predictions.csv").read_text().splitlines()))
    said, target = [row["translation"] for row in rows], [row["target"] for row in rows]
    assert results["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [target]).score, rel=1e-6)
    assert results["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [target]).score, rel=1e-6)
    assert all(row["sample"].startswith("I ") and row["target"].startswith("Je ") for row in rows)


def test_scores_do_not_depend_on_how_the_samples_are_batched(learned):
    filter_warnings()
    found = []
    for batch_size in (1, 3, 64):
        _, data, task = runs.load(learned)
        data.batch_size = batch_size
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        found.append(trainer.test(task, data, verbose=False)[0])
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    assert found[0]["test/perplexity"] == pytest.approx(torch.tensor(found[0]["test/loss"]).exp().item(), rel=1e-4)


def test_lab_test_says_it_again(learned, capsys):
    test.main(compose_config("test", [f"run={learned}"]))
    results = json.loads((learned / "results.json").read_text())["test"]
    assert f"test/bleu       {results['test/bleu']:.4f}" in capsys.readouterr().out


def test_translations_and_attention_are_to_be_seen(learned):
    for stage in ("val", "test"):
        assert (learned / f"figures/{stage}_attention.png").stat().st_size > 5000
    lines = (learned / "figures/test_translations.md").read_text().splitlines()
    assert lines[2] == "| source | target | translation |"
    assert len(lines) > 10
    assert all(line.count("|") == 4 for line in lines[2:])


def test_a_table_keeps_its_columns_whatever_is_in_its_cells():
    assert table(["a", "b", "c"], [["a|b", "c\nd", "\\"]], "title").splitlines()[4] == "| a\\|b | c d | \\\\ |"


def test_a_run_translates_without_its_data(learned, monkeypatch):
    monkeypatch.setattr(Pairs, "read_pairs", None)
    _, _, task = runs.load(learned)
    token = torch.tensor(task.tokens.encode(["I see two red dogs."]))
    (text,) = task.target_tokens.decode(task.predict_step({"token": token}, 0)["translation"].tolist())
    assert text.startswith("Je vois")


@pytest.fixture(scope="module", params=["seq2seq", "transformer_seq2seq"])
def exported(request, tmp_path_factory):
    """A run that translates names badly, but not all alike, with its model.onnx."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    words = [
        "experiment=translate_emoji", f"net={request.param}", "net.width=16", "data.tiny=true", "data.batch_size=8",
        "data.max_length=16", "optimizer.lr=0.02", "trainer.max_epochs=6", "trainer=cpu",
        "trainer.enable_progress_bar=false", "figures=false", f"run={folder}",
    ]  # fmt: skip
    filter_warnings()
    train.main(compose_config("train", words))
    export.main(compose_config("export", [f"run={folder}"]))
    return folder


def test_a_file_holds_the_search_and_says_what_the_checkpoint_says(exported, tmp_path):
    report = json.loads((exported / "export.json").read_text())["model.onnx"]
    assert report["same_answer"] == report["num_samples"]
    assert report["num_samples"] == len((exported / "test_predictions.csv").read_text().splitlines()) - 1
    (tmp_path / "in.txt").write_text("\n".join(["dog face", "", "😀", "cat " * 40, "grinning face with big eyes"]))
    said = []
    for which in (f"run={exported}", f"model={exported}/model.onnx"):
        predict.main(compose_config("predict", [which, f"input={tmp_path}/in.txt", f"output={tmp_path}/out.csv"]))
        said.append([row["translation"] for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())])
    assert said[0] == said[1]
    assert len(set(said[0])) > 2, "a mix-up would not be seen"


def test_a_file_that_translates_otherwise_is_refused(exported, monkeypatch):
    before, program = (exported / "model.onnx").read_bytes(), export.program.program

    def greedy_program(task, data):
        task.beam_size = 1
        return program(task, data)

    monkeypatch.setattr(export.program, "program", greedy_program)
    with pytest.raises(
        RunError, match=r"is refused: .*\d+% of the predictions \(translation\) differ \(at most 2% may\)"
    ):
        export.main(compose_config("export", [f"run={exported}"]))
    assert (exported / "model.onnx").read_bytes() == before


def test_rounding_may_choose_between_translations_but_seldom(exported, monkeypatch):
    _, data, task = runs.load(exported)
    data.setup()
    path = exported / "model.onnx"
    right, size = predictor.from_onnx(path), export.program.example(task, data)
    odd = comparison.some(data, "test", 1000, size)["token"][3]

    def read(path):
        def answer(arrays):
            translation = right.predict(arrays)["translation"].copy()
            translation[(arrays["token"] == odd).all(1), 0] += 1
            return {"translation": translation}

        return answer

    monkeypatch.setitem(export.program.FORMATS, "onnx", replace(export.FORMATS["onnx"], read=read))
    share = 1 / len(data.splits["test"])
    monkeypatch.setattr(Text, "tolerance", 1.5 * share)
    made = comparison.prove(path, "onnx", right, size, data)
    assert made["same_answer"] == made["num_samples"] - 1
    monkeypatch.setattr(Text, "tolerance", 0.9 * share)
    with pytest.raises(RunError, match=f"1 of {len(data.splits['test'])} test samples"):
        comparison.prove(path, "onnx", right, size, data)


def test_a_translator_that_goes_on_from_another_reads_no_more_than_it_is_told_to(exported):
    words = ["experiment=translate_emoji", "data.tiny=true", "data.max_length=4"]
    facts = stored_facts(exported)
    data = read_data(compose_config("train", words), facts)
    for name, feature in facts.features.items():
        assert data.facts.features[name].vocab_size == feature.vocab_size
    token = data.splits["train"].__getitems__(list(range(20)))["token"]
    assert token.shape[1] == 4
    (sample,), _ = data.facts.features["text"].read(["one two three four five"])
    assert sample["token"].shape == (4,)


def test_a_translator_in_eight_bits_is_refused(learned):
    with pytest.raises(UserError, match="int8: its loss of accuracy must be measured"):
        export.main(compose_config("export", [f"run={learned}", "int8=true"]))


def test_the_loss_is_the_mean_over_tokens_and_smoothed_in_training_alone(learned):
    _, data, task = runs.load(learned)
    data.batch_size = 64
    data.setup()
    batch = next(iter(data.val_dataloader()))
    target = batch["target"][:, 1:]
    assert (target == PAD).any()
    logits = task(batch | {"target": batch["target"][:, :-1]})
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")[target != PAD]
    assert task.step(batch, "val").loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    assert task.size(batch) == len(losses)
    assert task.step(batch, "train").loss.item() > losses.mean().item() + 0.1


def test_a_new_task_guesses_and_stores_the_nets_weights_alone():
    words = ("experiment=translate_emoji", "data.tiny=true")
    data = read(words)
    task = build(compose(*words), data).eval()
    batch = data.on_after_batch_transfer(data.splits["val"].__getitems__(range(8)))
    loss = task.step(batch, "val").loss
    assert loss.item() == pytest.approx(math.log(task(batch).shape[-1]), abs=0.3)
    assert set(task.state_dict()) == {f"net.{name}" for name in task.net.state_dict()}


def test_texts_are_kept_on_the_cpu_and_gathered_from_every_process():
    metric = BLEU(None)
    for _ in range(2):
        metric.update(torch.tensor([[97, 98, 0]]), torch.tensor([[5, 6], [7, 0]]))
    assert {(x.dtype, x.device.type) for x in (*metric.reference, *metric.translation)} == {(torch.int32, "cpu")}
    metric.sync(dist_sync_fn=lambda x, group: [x, x], distributed_available=lambda: True)
    assert rows(dim_zero_cat(metric.reference)) == [[97, 98]] * 4
    assert rows(dim_zero_cat(metric.translation)) == [[5, 6], [7]] * 4
    metric.unsync()
    assert rows(dim_zero_cat(metric.translation)) == [[5, 6], [7]] * 2


def test_a_task_says_that_it_takes_no_metrics():
    cfg = OmegaConf.create({"task": {"_target_": "lab.tasks.translation.Translation", "metrics": {"a": "x"}}})
    with pytest.raises(UserError, match=r"^error: task.metrics: task Translation does not accept additional metrics$"):
        list(added_metrics(cfg, None))
