"""Pairs of texts: files of every kind, splits, vocabularies and batches."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lab.data.buckets import buckets
from lab.data.pairs import Pairs
from lab.data.translation import EmojiTranslations, related
from lab.engine.errors import UserError

PAD, START, END = 0, 2, 3
SMALL = {"tokens": "words", "val_fraction": 0.2, "test_fraction": 0.2, "batch_size": 8}


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
            for row in ([i for i in row.tolist() if i != PAD] for row in batch[name]):
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
