"""Files of texts that people have, and public sets."""

import csv
import importlib
import json
import sys
from types import SimpleNamespace

import pytest
from conftest import CONF
from roots import read_root

from lab.build import read_data
from lab.engine.errors import UserError

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


def read(root, *more):
    return read_root("sentiment", root, *more)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "CSV"])
def test_a_table_of_any_kind(tmp_path, suffix):
    facts = [read(write(tmp_path / f"x.{kind}")).facts for kind in ("csv", suffix)]
    assert facts[0] == facts[1]
    assert facts[0].num_samples == {"train": 28, "val": 6, "test": 6}
    assert facts[0].features["label"].class_names == ["a", "b"]


def test_columns_of_any_name_and_splits_by_a_column(tmp_path):
    columns, part = ("id", "body", "kind", "part"), ["train", "val", "test", "train"]
    words = ("data.text=body", "data.label=kind", "data.split=part", "data.val_fraction=0.9")
    rows = [(i, f"text {i}", "ab"[i // 4 % 2], part[i % 4]) for i in range(40)]
    path = write(tmp_path / "x.csv", rows, columns)
    data = read(path, *words)
    assert data.facts.num_samples == {"train": 20, "val": 10, "test": 10}
    assert data.names["val"] == [f"text {i}" for i in range(1, 40, 4)]
    write(path, [*rows, (40, "text", "a", "devel")], columns)
    with pytest.raises(UserError, match="line 42 has the split 'devel'; expected one of train, training, val, "):
        read(path, *words)


def test_the_vocabulary_is_the_training_split_s(tmp_path):
    rows = [(f"seen seen {part}", label, part) for part in ("train", "val", "test") for label in "ab" for _ in range(3)]
    path = write(tmp_path / "x.csv", rows, ("text", "label", "split"))
    data = read(path, "data.split=split", "data.min_count=1")
    vocabulary = json.loads(data.facts.features["text"].tokenizer)["model"]["vocab"]
    assert {"seen", "train"} <= set(vocabulary)
    assert not {"val", "test"} & set(vocabulary)


def test_splits_by_files_and_what_is_missing_is_drawn(tmp_path):
    write(tmp_path / "x/train.jsonl")
    write(tmp_path / "x/test.csv", ROWS[:7])
    (tmp_path / "x/README.md").write_text("not a table")
    assert read(tmp_path / "x").facts.num_samples == {"train": 34, "val": 6, "test": 7}


def test_groups_stay_whole_and_folds_cover_all(tmp_path):
    path = write(tmp_path / "x.csv", [(t, c, str(i // 4)) for i, (t, c) in enumerate(ROWS)], ("text", "label", "who"))
    seen = []
    for fold in range(5):
        data = read(path, "data.group=who", "cv=5", f"fold={fold}")
        groups = [{int(text.split()[1]) // 4 for text in names} for names in data.names.values()]
        assert sum(map(len, groups)) == 10
        seen += data.names["test"]
    assert sorted(seen) == sorted(text for text, _ in ROWS)


GOOD = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
BAD = {
    "x.csv": {
        "": "x.csv has no rows",
        "text,label\n": "x.csv has no rows",
        "text;label\na;b\n": "x.csv: unknown column text. Did you mean text;label",
        "body,label\na,b\n": "x.csv: unknown column text. There are: body, label",
        GOOD + "one cell\n": "x.csv, line 42 has 1 cells; the header has 2",
        GOOD + "a,b,c\n": "x.csv, line 42 has 3 cells; the header has 2",
        GOOD + "nothing,\n": "x.csv, line 42 has no label",
        GOOD + '"never closed,a\n': "x.csv, line 42 is damaged",
        GOOD.encode() + b"caf\xe9,a\n": r"x.csv, line 42 is not UTF-8 \(byte 4 of it\)",
        GOOD.encode("utf-16"): "x.csv is UTF-16 or UTF-32",
        "text,label,text\na,b,c\n": "x.csv has 2 columns named text",
    },
    "x.jsonl": {
        '{"text": "a", "label": "b"}\n{"text": "a", "lab\n': "x.jsonl, line 2 is damaged",
        '{"text": "a"}\n': "x.jsonl, line 1: unknown column label. There are: text",
        '{"text": null, "label": "b"}\n': "x.jsonl, line 1 has no text",
        '{"text": ["a"], "label": "b"}\n': "x.jsonl, line 1: text is not text, but list",
        '["a", "b"]\n': "x.jsonl, line 1 is not an object",
        '{"text": "\\ud800", "label": "b"}\n': "x.jsonl, line 1: text is not valid Unicode",
        "[" * 100_000: "x.jsonl, line 1 is damaged",
    },
    "x.txt": {GOOD: "x.txt: expected a file that ends in .csv, .tsv, .jsonl, .parquet"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in BAD.items() for text in texts], ids=range(19)
)
def test_what_is_wrong_with_a_table_is_said_in_a_line_that_names_the_row(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=BAD[name][content]) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_class_that_only_the_test_has_is_named_with_its_row(tmp_path):
    write(tmp_path / "x/train.csv")
    write(tmp_path / "x/test.csv", [*ROWS[:3], ("text", "c")])
    with pytest.raises(UserError, match=r"test.csv, line 5 has the class 'c', which no training sample has"):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: None, "does not exist"),
        (lambda x: x.mkdir(), "has no such file; expected one train"),
        (lambda x: write(x / "test.csv"), "has test.csv; expected one train"),
        (lambda x: [write(x / "train.csv"), write(x / "train.tsv")], "train.csv and train.tsv, which are both train"),
    ],
)
def test_a_root_that_is_none(compose, tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x")
    with pytest.raises(UserError, match=r"data.root=PATH"):
        read_data(compose("experiment=sentiment"))


def test_texts_of_every_kind_are_taken(tmp_path):
    strange = ["", "x", "y" * 100_000, "🎬🏽👩‍🚀", "مرحبا", 'two\nlines, "quoted"', "\u202e\u0000", "<pad></s>"]
    data = read(write(tmp_path / "x.csv", [*ROWS, *((text, "a") for text in strange)]))
    batches = [
        batch for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()) for batch in loader
    ]
    assert sum(len(batch["index"]) for batch in batches) == 48
    assert all((batch["token"][:, 0] != 0).all() for batch in batches)


def test_a_folder_of_files_for_each_class(tmp_path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / "x" / label / "deeper").mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / label / f"{'deeper/' * (i % 3 == 0)}{i}.txt").write_text(text)
    facts = read(tmp_path / "x", "data=text_folder").facts
    assert facts.num_samples == {"train": 28, "val": 6, "test": 6}
    (tmp_path / "x/b/1.txt").write_bytes(b"ok\n\xff")
    with pytest.raises(UserError, match=r"b/1.txt, line 2 is not UTF-8"):
        read(tmp_path / "x", "data=text_folder")
    (tmp_path / "x/train").mkdir()
    with pytest.raises(UserError, match="expected train, optionally val and test"):
        read(tmp_path / "x", "data=text_folder")
    (tmp_path / "y/a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"y/a has no .txt files"):
        read(tmp_path / "y", "data=text_folder")


class TestPublicSets:
    def test_the_library_is_not_there(self, compose, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        message = r"data: imdb needs the package datasets: pip install 'lab-template\[datasets\]'"
        with pytest.raises(UserError, match=message):
            read_data(compose("experiment=language_id", "data=imdb"))

    def test_neither_cache_nor_network(self, compose, monkeypatch):
        def load(path):
            raise ConnectionError(f"Couldn't reach\n{path}")

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
        with pytest.raises(
            UserError, match=r"ag_news is not in the cache .*reach fancyzhx/ag_news.*tiny=true needs none"
        ):
            read_data(compose("experiment=language_id", "data=ag_news"))


def test_the_bench_has_a_baseline_for_each_of_its_experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(CONF.parent / "bench"))
    words = importlib.import_module("words")
    assert all(1 / 3 < words.baseline(experiment, ["data.tiny=true"]) <= 1 for experiment in words.NGRAMS)
