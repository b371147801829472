"""What is read, left out and reported before training; folders and tables of ordinary kinds."""

import csv
import sys
import time

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from lab import cli, config, resume, run
from lab import test as lab_test
from lab.data.files import files_below
from lab.data.read_image import read_image
from lab.data.report import DataReport
from lab.data.split import grouped_split, groups_of, split_of
from lab.data.translation import related
from lab.errors import UserError
from lab.inputs.images import Images
from lab.inputs.texts import Texts
from lab.tasks.classification import ClassAccuracy, OfEachClass

PIXELS = np.random.default_rng(0)


def picture(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = PIXELS.integers(0, 255, (8, 8, 3), dtype=np.uint8) if pixels is None else pixels
    Image.fromarray(made).save(path, "PNG")
    return made


def pictures(folder, classes="ab", num=4, suffix="png"):
    for name in classes:
        for i in range(num):
            picture(folder / name / f"{i}.{suffix}")


def images(compose, root, *more):
    return run.read_data(compose("experiment=image_folder", f"data.root={root}", "data.num_workers=0", *more))


def texts(compose, root, *more):
    return run.read_data(compose("experiment=sentiment", f"data.root={root}", *more))


def pairs(compose, root, *more):
    return run.read_data(compose("experiment=translate_tatoeba", f"data.root={root}", *more))


def table(path, rows, header=("text", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows] if header else rows)
    return path


ROWS = [(f"text {i}", "ab"[i % 2]) for i in range(40)]


@pytest.mark.parametrize(
    ("name", "split"),
    [("Training", "train"), ("TEST", "test"), ("valid", "val"), ("Dev", "val"), (" eval ", "val"), ("devel", None),
     ("Validation", "val"), ("testing", "test"), ("trains", None)],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_folders_named_like_splits_are_splits_and_hidden_ones_are_nothing(compose, tmp_path):
    for split, num in {"Training": 4, "Valid": 2, "TESTING": 3}.items():
        pictures(tmp_path / split, num=num, suffix="PNG")
    for hidden in (".ipynb_checkpoints/x.png", "Training/.cache/y.png", "Training/a/.dot.png", "__MACOSX/a/z.png"):
        picture(tmp_path / hidden)
    data = images(compose, tmp_path)
    assert data.facts.class_names == ["a", "b"]
    assert data.facts.num_samples == {"train": 8, "val": 4, "test": 6}
    assert data.names["val"] == ["Valid/a/0.PNG", "Valid/a/1.PNG", "Valid/b/0.PNG", "Valid/b/1.PNG"]
    assert "Training/a/.dot.png" in data.report.full()
    found = Images(3, 8).find(str(tmp_path))
    assert len(found) == 18
    picture(tmp_path / "dev/a/0.png")
    with pytest.raises(UserError, match="has Valid and dev, which are both val"):
        images(compose, tmp_path)


def test_links_to_folders_are_read_alike_in_training_and_prediction(compose, tmp_path):
    pictures(tmp_path / "elsewhere", "c")
    pictures(tmp_path / "x")
    (tmp_path / "x/c").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "x/a/loop").symlink_to(tmp_path / "x/a")
    assert images(compose, tmp_path / "x").facts.class_names == ["a", "b", "c"]
    assert len(Images(3, 8).find(str(tmp_path / "x"))) == 12 == len(list(files_below(tmp_path / "x")))


def test_val_may_lack_a_class_that_train_has(compose, tmp_path):
    pictures(tmp_path / "train", "abc")
    pictures(tmp_path / "val", "ab")
    pictures(tmp_path / "test", "bc")
    data = images(compose, tmp_path)
    assert data.report.classes["val"] == {"a": 4, "b": 4, "c": 0}
    assert "val has no sample of c" in data.report.short()
    assert "test has no sample of a, and gives no score for it" in data.report.short()


def test_a_class_without_test_samples_has_no_score():
    metric = OfEachClass(ClassAccuracy(3), ["a", "b", "c"], prefix="acc/")
    metric.update(torch.tensor([0, 2, 2]), torch.tensor([0, 0, 2]))
    assert {name: value.item() for name, value in metric.compute().items()} == {"acc/a": 0.5, "acc/c": 1.0}


@pytest.mark.parametrize(
    ("suffix", "said"), [("TXT", None), ("md", r"b has no \.txt files \(\.md\)"), ("rtf", r"b has no \.txt files")]
)
def test_a_class_of_texts_never_vanishes(compose, tmp_path, suffix, said):
    for i in range(8):
        for name, end in (("a", "txt"), ("b", suffix)):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{i}.{end}").write_text(f"{name} {i}")
    if said is None:
        assert texts(compose, tmp_path, "data=text_folder").facts.class_names == ["a", "b"]
    else:
        with pytest.raises(UserError, match=said):
            texts(compose, tmp_path, "data=text_folder")


@pytest.mark.parametrize("names", [("dev", "test"), ("valid", "testing"), ("VALIDATION", "Test")])
def test_tables_named_like_splits_are_splits(compose, tmp_path, names):
    for name, num in zip(("train", *names), (40, 6, 8), strict=True):
        table(tmp_path / f"{name}.csv", [(f"{name} {text}", label) for text, label in ROWS[:num]])
    (tmp_path / ".train.csv").write_text("")
    assert texts(compose, tmp_path).facts.num_samples == {"train": 40, "val": 6, "test": 8}


def test_a_table_without_a_header(compose, tmp_path):
    rows = [(i, text, label) for i, (text, label) in enumerate(ROWS)]
    path = table(tmp_path / "x.csv", rows, header=None)
    with pytest.raises(
        UserError, match=r"There are: 0, a, text 0\. If its first line is no header, number the columns"
    ):
        texts(compose, path, "data.text=words", "data.label=kind")
    data = texts(compose, path, "data.text=2", "data.label=3")
    assert sum(data.facts.num_samples.values()) == 40
    assert "40 rows in a table without a header" in data.report.full()
    with pytest.raises(UserError, match="there is no column 4; there are 3"):
        texts(compose, path, "data.text=2", "data.label=4")
    with pytest.raises(UserError, match="all as names, or as numbers"):
        texts(compose, path, "data.text=2", "data.label=label")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,label,label\na,b,c\n", "has 2 columns named label"),
        ("x.tsv", "text\ttext\tlabel\na\tb\tc\n", "has 2 columns named text"),
        ("x.csv", "text, text ,label\na,b,c\n", "has 2 columns named text"),
        ("x.jsonl", '{"text": "a", "label": "b", "text": "c"}\n', "text is there twice"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), "is UTF-16 or UTF-32"),
        ("x.csv", "text,label\na,b\n".encode("utf-16-le"), "is UTF-16 or UTF-32"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n'.encode("utf-32"), "is UTF-16 or UTF-32"),
    ],
)
def test_a_table_that_can_be_misread_is_refused(compose, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as error:
        texts(compose, tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_wide_file_is_not_predicted(tmp_path, encoding):
    (tmp_path / "x.txt").write_bytes("good\nbad\n".encode(encoding))
    with pytest.raises(UserError, match="input=.*x.txt: it is UTF-16 or UTF-32"):
        Texts("", 8).find(str(tmp_path / "x.txt"))


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.jsonl", "x.parquet"])
def test_a_table_is_no_file_of_texts_to_predict(tmp_path, name):
    (tmp_path / name).write_text("text,label\na,b\n")
    with pytest.raises(UserError, match="it is a table; give a file with a text on each line"):
        Texts("", 8).find(str(tmp_path / name))


def test_labels_lose_their_spaces_and_rare_classes_stay_in_train(compose, tmp_path):
    rows = [(text, label + " " * (i % 3 == 0)) for i, (text, label) in enumerate(ROWS)]
    data = texts(compose, table(tmp_path / "x.csv", [*rows, ("once", "rare one"), ("x", "two"), ("y", "two")]))
    assert data.facts.class_names == ["a", "b", "rare one", "two"]
    classes = data.report.classes
    assert (classes["train"]["rare one"], classes["train"]["two"]) == (1, 2)
    assert "test has no sample of rare one, two" in data.report.short()
    assert "14 × labels' spaces" in data.report.short()


def test_an_empty_group_is_a_group_of_its_own(compose, tmp_path):
    assert len(set(groups_of(["", None, "  ", "a", "a "]))) == 4
    rows = [(text, label, "" if i < 30 else "g") for i, (text, label) in enumerate(ROWS)]
    path = table(tmp_path / "x.csv", rows, ("text", "label", "who"))
    num = texts(compose, path, "data.group=who").facts.num_samples
    assert min(num.values()) >= 4


def test_train_has_all_classes_where_groups_are_drawn():
    label = torch.tensor([0] * 40 + [1] * 4)
    group = [str(i // 4) for i in range(44)]  # class 1 is one group
    for seed in range(5):
        assert 1 in label[grouped_split(label, {"val": 0.2, "test": 0.2}, seed, group)["train"]]


def test_samples_that_splits_share_are_reported(compose, tmp_path):
    for split in ("train", "val", "test"):
        pictures(tmp_path / "x" / split)
    same = picture(tmp_path / "x/train/a/same.png")
    picture(tmp_path / "x/test/b/other.png", same)
    assert (
        "1 of 9 test samples are in train too, such as test/b/other.png"
        in images(compose, tmp_path / "x").report.short()
    )
    path = table(tmp_path / "x.csv", [row for row in ROWS for _ in range(2)])
    assert " test samples are in train too, such as text " in texts(compose, path).report.short()
    report = DataReport()
    report.describe({"test": [b"1", b"2"], "train": [b"2", b"2"], "val": [b"1"]}, {})
    assert report.warnings == ["1 of 2 test samples are in train too, such as 1",
                               "1 of 2 test samples are in val too, such as 0"]  # fmt: skip


def broken(folder):
    pictures(folder, num=6)
    whole = (folder / "a/0.png").read_bytes()
    (folder / "a/1.png").write_bytes(whole[:60])
    (folder / "b/1.png").write_bytes(b"")
    (folder / "b/2.png").write_text("a text")


def test_all_unreadable_images_are_named_at_once_or_left_out(compose, tmp_path):
    broken(tmp_path)
    with pytest.raises(UserError, match=r"3 of 12 images can't be read.*data.skip_unreadable=true") as error:
        images(compose, tmp_path)
    assert [line.split(" is not")[0].rpartition("/")[2] for line in str(error.value).splitlines()[1:]] == [
        "1.png", "1.png", "2.png",
    ]  # fmt: skip
    data = images(compose, tmp_path, "data.skip_unreadable=true")
    assert sum(data.facts.num_samples.values()) == 9
    assert "3 × images that can't be read" in data.report.short()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_with_a_pixel_that_is_no_number_is_unreadable(tmp_path, value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = value
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match="not a readable image .*NaN or infinite"):
        read_image(tmp_path / "x.tiff", 1, 8)


def test_a_picture_of_the_same_size_is_other_data_and_a_moved_root_is_the_same(compose, tmp_path):
    pictures(tmp_path / "x")
    before = images(compose, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "2024")
    after = images(compose, tmp_path / "2024")
    assert (after.facts.fingerprint, after.names) == (before.facts.fingerprint, before.names)
    pictures(tmp_path / "2024", "c")  # a bitmap of 8×8 pixels has one size, whatever it shows
    for path in sorted((tmp_path / "2024").glob("*/*")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    before = images(compose, tmp_path / "2024").facts
    one, other = tmp_path / "2024/a/0.bmp", tmp_path / "2024/b/0.bmp"
    assert one.stat().st_size == other.stat().st_size
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    after = images(compose, tmp_path / "2024").facts
    assert after.num_samples == before.num_samples
    assert after.fingerprint != before.fingerprint


def test_max_characters_leaves_published_splits_alone(compose, tmp_path):
    for name in ("train", "dev", "test_2016_flickr"):
        for side, end in (("en", "x"), ("fr", "y")):
            lines = [f"{name} {i} {end * (60 if i % 2 else 3)}" for i in range(20)]
            (tmp_path / f"{name}.{side}").write_text("\n".join(lines) + "\n")
    data = pairs(compose, tmp_path, "data.source=en", "data.target=fr")
    assert data.facts.num_samples == {"train": 10, "val": 20, "test": 20}
    assert "10 × of 20 pairs, with a side of more than 40 characters" in data.report.short()


@pytest.mark.parametrize(
    ("text", "is_warned_of"),
    [
        ("我喜欢看电影", True),
        ("今日は映画を見た", True),
        ("วันนี้อากาศดี", True),
        ("오늘 날씨", False),
        ("Ein Film", False),
    ],
)
def test_words_without_spaces_are_warned_of(text, is_warned_of):
    report = DataReport()
    report.warn_of_words([text] * 3 + ["a film"], "words")
    assert bool(report.warnings) == is_warned_of
    report = DataReport()
    report.warn_of_words([text], "characters")
    assert not report.warnings


def test_one_long_pair_costs_no_memory():
    start = time.process_time()
    assert len(set(related([(str(i), f"t{i}") for i in range(20_000)] + [("x" * 60_000, "y")]))) == 20_001
    assert time.process_time() - start < 2


def test_lab_data_prints_the_whole_report(tmp_path, monkeypatch, capsys):
    broken(tmp_path / "x")
    monkeypatch.setattr(sys, "argv", ["lab", "data", "experiment=image_folder", f"data.root={tmp_path}/x",
                                      "data.skip_unreadable=true"])  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(cli.main) == 0
    said = capsys.readouterr().out
    assert "12 images in a folder for each class" in said
    assert "a/1.png (" in said
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_run_has_its_report_and_is_tested_where_its_data_is_now(trained, tmp_path, capsys):
    pictures(tmp_path / "x", num=10)
    words = ("experiment=image_folder", f"data.root={tmp_path}/x", "debug=two_batches", "data.num_workers=0")
    folder = trained(*words)
    report = (folder / "data_report.txt").read_text()
    assert "20 images in a folder for each class" in report
    assert str(tmp_path) not in report + (folder / "test_predictions.csv").read_text()
    (tmp_path / "x").rename(tmp_path / "y")
    capsys.readouterr()
    lab_test.main(config.compose("test", [f"run={folder}", f"data.root={tmp_path}/y"]))
    assert "warning" not in capsys.readouterr().err
    pictures(tmp_path / "z", num=10)
    lab_test.main(config.compose("test", [f"run={folder}", f"data.root={tmp_path}/z"]))
    assert "warning: the data has changed since" in capsys.readouterr().err


def test_a_run_goes_on_where_its_data_is_now_unless_it_is_other_data(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "x", num=10)
    words = ("experiment=image_folder", f"data.root={tmp_path}/x", "debug=two_batches", "data.num_workers=0")
    folder = trained(*words)
    (tmp_path / "x").rename(tmp_path / "2024")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.data.root = "2024"
    run.keep_root(cfg)
    assert cfg.data.root == str(tmp_path / "2024")
    resume.check_data(run.read_data(cfg), folder)
    picture(tmp_path / "2024/a/0.png")
    with pytest.raises(UserError, match="data: it has changed since"):
        resume.check_data(run.read_data(cfg), folder)


def test_a_long_report_is_short_on_screen():
    report = DataReport()
    for i in range(9):
        report.find(f"file {i}")
        report.leave_out(f"things of kind {i}", ["a\x1b[31m"], is_minor=i < 8)
        report.warnings.append(f"warning {i}")
    report.describe({name: [name.encode()] for name in ("train", "val", "test")}, {})
    lines = report.short().splitlines()
    assert len(lines) == 12
    assert "things of kind 8" in lines[9]
    assert "things of kind 7" in report.full()
    assert "\x1b" not in report.full()
