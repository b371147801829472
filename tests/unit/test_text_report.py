"""The report of texts, tables and pairs: what is read, left out, or refused."""

import csv
import time

import pytest
from roots import read_root
from test_data_report import images, picture, pictures

from lab.data.data_report import DataReport
from lab.data.split import groups_of
from lab.data.translation import related
from lab.engine.errors import UserError
from lab.features.text import Text


def texts(root, *more):
    return read_root("sentiment", root, *more)


def pairs(root, *more):
    return read_root("translate_tatoeba", root, *more)


def table(path, rows, header=("text", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


ROWS = [(f"text {i}", "ab"[i % 2]) for i in range(40)]


@pytest.mark.parametrize(
    ("suffix", "said"),
    [("TXT", None), ("md", r"b has 8 files, but no \.txt files \(\.md\)"), ("rtf", r"b has 8 files, but no \.txt")],
)
def test_a_class_of_texts_never_vanishes(tmp_path, suffix, said):
    for i in range(8):
        for name, end in (("a", "txt"), ("b", suffix)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{i}.{end}").write_text(f"{name} {i}")
    if said is None:
        assert texts(tmp_path, "data=text_folder").facts.features["label"].class_names == ["a", "b"]
    else:
        with pytest.raises(UserError, match=said):
            texts(tmp_path, "data=text_folder")


@pytest.mark.parametrize("names", [("dev", "test"), ("valid", "testing"), ("VALIDATION", "Test")])
def test_tables_named_like_splits_are_splits(tmp_path, names):
    for name, num in zip(("train", *names), (40, 6, 8), strict=True):
        table(tmp_path / f"{name}.csv", [(f"{name} {text}", label) for text, label in ROWS[:num]])
    (tmp_path / ".train.csv").write_text("")
    assert texts(tmp_path).facts.num_samples == {"train": 40, "val": 6, "test": 8}


BAD = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
BAD_ROWS = {
    "x.csv": (BAD + "one cell\nnothing,\n").encode() + b"caf\xe9,a\na,b,c\n" + "caf\u00e9,b\n".encode(),
    "x.tsv": BAD.replace(",", "\t").encode() + b"one cell\nno label\t\ncaf\xe9\ta\na\tb\tc\nx\ta\n",
    "x.jsonl": b"".join(b'{"text": "%d", "label": "%s"}\n' % (i, b"ab"[i % 2 :][:1]) for i in range(40))
    + b'{"text": "a"}\n{"text": "a", "lab\n[]\n{"text": "a", "label": NaN}\n{"text": "x", "label": "a"}\n',
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_all_bad_rows_are_named_at_once_or_left_out(tmp_path, name):
    (tmp_path / name).write_bytes(BAD_ROWS[name])
    first = 41 if name == "x.jsonl" else 42
    with pytest.raises(UserError, match="4 of 45 rows can't be read.*skip_unreadable=true leaves them out") as error:
        texts(tmp_path / name)
    lines = str(error.value).splitlines()[1:]
    assert [int(line.partition(", line ")[2].split()[0].strip(":")) for line in lines] == [*range(first, first + 4)]
    data = texts(tmp_path / name, "data.skip_unreadable=true")
    assert sum(data.facts.num_samples.values()) == 41
    assert "4 rows that can't be read" in data.report.short()
    assert f"{name}, line {first + 3}" in data.report.full()


def test_all_unreadable_text_files_are_named_at_once_or_left_out(tmp_path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{i}.txt").write_bytes(text.encode() + b"\xff" * (i < 3))
    with pytest.raises(UserError, match="3 of 40 .txt files can't be read"):
        texts(tmp_path, "data=text_folder")
    data = texts(tmp_path, "data=text_folder", "data.skip_unreadable=true")
    assert sum(data.facts.num_samples.values()) == 37


def test_all_bad_lines_of_pairs_are_named_at_once_or_left_out(tmp_path):
    lines = [f"source {i}\ttarget {i}" for i in range(60)]
    lines[7] = lines[9] = "no tab"
    (tmp_path / "x.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="2 of 60 lines can't be read") as error:
        pairs(tmp_path / "x.txt")
    assert "x.txt, line 10 has 1 columns, but not 1 and 2" in str(error.value)
    assert sum(pairs(tmp_path / "x.txt", "data.skip_unreadable=true").facts.num_samples.values()) == 58


@pytest.mark.parametrize(("files", "said"), [(("train.en", "train.fr"), "give data.source=en data.target=fr"),
    (("train.fr", "train.en", "dev.en", "dev.fr"), "For train.en and train.fr"), (("a.en", "b.fr"), "has no train"),
    (("train.en",), "has no train")])  # fmt: skip
def test_files_of_two_languages_are_named(tmp_path, files, said):
    for name in files:
        (tmp_path / name).write_text("a\n")
    with pytest.raises(UserError, match=said) as error:
        pairs(tmp_path)
    assert ("data.source" in str(error.value)) == (files[0][:5] == "train" and len(files) > 1)


@pytest.mark.parametrize(
    ("text", "num_cut"), [("one two three four five six", 0), ("one two three four five six seven", 40), ("one", 0)]
)
def test_only_texts_that_are_cut_count_as_cut(tmp_path, text, num_cut):
    rows = [(text, label) for _, label in ROWS]
    report = texts(table(tmp_path / "x.csv", rows), "data.max_length=7").report
    assert (f"{num_cut} texts truncated" in report.short()) == bool(num_cut)
    assert ("texts truncated" in report.short()) == bool(num_cut)


def test_empty_texts_are_warned_of(tmp_path):
    rows = [(text if i % 4 else " \t", label) for i, (text, label) in enumerate(ROWS)]
    assert "train texts are empty" in texts(table(tmp_path / "x.csv", rows)).report.full()


def test_a_test_split_that_cross_validation_leaves_out_is_reported(tmp_path):
    for name, num in {"train": 40, "val": 6, "test": 8}.items():
        table(tmp_path / f"{name}.csv", [(f"{name} {text}", label) for text, label in ROWS[:num]])
    data = texts(tmp_path, "cv=3", "fold=0")
    assert "8 samples of the official test split, which cross-validation does not use" in data.report.short()
    assert "fold 0 of 3 is the test split" in data.report.full()


def test_a_header_that_is_read_as_a_row_is_warned_of(tmp_path):
    data = texts(table(tmp_path / "x.csv", ROWS), "data.text=1", "data.label=2")
    assert "the label 'label' of the first line is on no other line; if the line is a header" in data.report.full()
    data = texts(table(tmp_path / "y.csv", ROWS, header=None), "data.text=1", "data.label=2")
    assert "header, name" not in data.report.full()


def test_labels_in_quotes_that_a_tsv_keeps_are_warned_of(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\n" + "".join(f'{text}\t"{label}"\n' for text, label in ROWS))
    assert "the labels begin and end with quotes" in texts(tmp_path / "x.tsv").report.full()


@pytest.mark.parametrize(("label", "name"), [("1.0", "1"), ("2", "2"), ("true", "true"), ("1.5", "1.5")])
def test_numbers_of_json_are_classes_by_their_value(tmp_path, label, name):
    lines = [f'{{"text": "text {i}", "label": {label if i % 4 else name}}}\n' for i in range(20)]
    lines += [f'{{"text": "text {i}", "label": "b"}}\n' for i in range(20)]
    (tmp_path / "x.jsonl").write_text("".join(lines))
    assert texts(tmp_path / "x.jsonl").facts.features["label"].class_names == sorted([name, "b"])


def test_a_table_without_a_header(tmp_path):
    rows = [(i, text, label) for i, (text, label) in enumerate(ROWS)]
    path = table(tmp_path / "x.csv", rows, header=None)
    with pytest.raises(
        UserError, match=r"There are: 0, a, text 0\. If its first line is no header, number the columns"
    ):
        texts(path, "data.text=words", "data.label=kind")
    data = texts(path, "data.text=2", "data.label=3")
    assert sum(data.facts.num_samples.values()) == 40
    assert "40 rows in a table without a header" in data.report.full()
    with pytest.raises(UserError, match="there is no column 4; there are 3"):
        texts(path, "data.text=2", "data.label=4")
    with pytest.raises(UserError, match="all as names, or as numbers"):
        texts(path, "data.text=2", "data.label=label")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label,label\na,b,c\n", "has 2 columns named label"),
        ("x.tsv", "text\ttext\tlabel\na\tb\tc\n", "has 2 columns named text"),
        ("x.csv", "text, text ,label\na,b,c\n", "has 2 columns named text"),
        ("x.jsonl", '{"text": "a", "label": "b", "text": "c"}\n', "text occurs twice"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), "is UTF-16 or UTF-32"),
        ("x.csv", "text,label\na,b\n".encode("utf-16-le"), "is UTF-16 or UTF-32"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n'.encode("utf-32"), "is UTF-16 or UTF-32"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as error:
        texts(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_wide_file_is_not_predicted(tmp_path, encoding):
    (tmp_path / "x.txt").write_bytes("good\nbad\n".encode(encoding))
    with pytest.raises(UserError, match="input=.*x.txt: it is UTF-16 or UTF-32"):
        Text("", 8).find(str(tmp_path / "x.txt"))


def test_labels_lose_their_spaces_and_rare_classes_stay_in_train(tmp_path):
    rows = [(text, label + " " * (i % 3 == 0)) for i, (text, label) in enumerate(ROWS)]
    data = texts(table(tmp_path / "x.csv", [*rows, ("once", "rare one"), ("x", "two"), ("y", "two")]))
    assert data.facts.features["label"].class_names == ["a", "b", "rare one", "two"]
    classes = data.report.classes
    assert (classes["train"]["rare one"], classes["train"]["two"]) == (1, 2)
    assert "test has no sample of rare one, two" in data.report.short()
    assert "14 labels begin or end with spaces, which are removed, such as 'a '" in data.report.short()


def test_an_empty_group_is_a_group_of_its_own(tmp_path):
    assert len(set(groups_of(["", None, "  ", "a", "a "]))) == 4
    rows = [(text, label, "" if i < 30 else "g") for i, (text, label) in enumerate(ROWS)]
    path = table(tmp_path / "x.csv", rows, ("text", "label", "who"))
    num = texts(path, "data.group=who").facts.num_samples
    assert min(num.values()) >= 4


def test_samples_that_splits_share_are_reported(tmp_path):
    for split in ("train", "val", "test"):
        pictures(tmp_path / "x" / split)
    same = picture(tmp_path / "x/train/a/same.png")
    picture(tmp_path / "x/test/b/other.png", same)
    assert "1 of 9 test samples are in train too, such as test/b/other.png" in images(tmp_path / "x").report.short()
    path = table(tmp_path / "x.csv", [row for row in ROWS for _ in range(2)])
    assert " test samples are in train too, such as text " in texts(path).report.short()
    report = DataReport()
    report.describe({"test": [b"1", b"2"], "train": [b"2", b"2"], "val": [b"1"]}, {})
    assert report.warnings == ["1 of 2 test samples are in train too, such as 1",
                               "1 of 2 test samples are in val too, such as 0"]  # fmt: skip


def test_max_characters_leaves_published_splits_alone(tmp_path):
    for name in ("train", "dev", "test_2016_flickr"):
        for side, end in (("en", "x"), ("fr", "y")):
            lines = [f"{name} {i} {end * (60 if i % 2 else 3)}" for i in range(20)]
            (tmp_path / f"{name}.{side}").write_text("\n".join(lines) + "\n")
    data = pairs(tmp_path, "data.source=en", "data.target=fr")
    assert data.facts.num_samples == {"train": 10, "val": 20, "test": 20}
    assert "10 of 20 pairs: longer than 40 characters" in data.report.short()


def test_one_long_pair_costs_no_memory():
    start = time.process_time()
    assert len(set(related([(str(i), f"t{i}") for i in range(20_000)] + [("x" * 60_000, "y")]))) == 20_001
    assert time.process_time() - start < 2
