"""Data is read, left out and reported before training; folders and tables of ordinary kinds."""

import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from roots import read_root

from lab.build import read_data
from lab.data import image_folder
from lab.data.data_report import DataReport
from lab.data.split import grouped_split, split_of
from lab.engine import cli
from lab.engine.config import user_paths
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.features.files import files_below
from lab.features.image import Image as ImageFeature
from lab.features.read_image import read_image
from lab.metrics.classes import ClassAccuracy, ValuePerClass
from lab.runs import resume
from lab.verbs import test

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


def images(root, *more):
    return read_root("image_folder", root, "data.num_workers=0", *more)


@pytest.mark.parametrize(
    ("name", "split"),
    [("Training", "train"), ("TEST", "test"), ("valid", "val"), ("Dev", "val"), (" eval ", "val"), ("devel", None),
     ("Validation", "val"), ("testing", "test"), ("trains", None), ("training_set", "train"), ("Test Set", "test"),
     ("trainset", "train"), ("val2017", "val"), ("test-images", "test"), ("train_station", None), ("dataset", None),
     ("test tube", None), ("validate", "val"), ("tests", "test")],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_folders_named_like_splits_are_splits_and_hidden_ones_are_nothing(tmp_path):
    for split, num in {"Training": 4, "Valid": 2, "TESTING": 3}.items():
        pictures(tmp_path / split, num=num, suffix="PNG")
    for hidden in (".ipynb_checkpoints/x.png", "Training/.cache/y.png", "Training/a/.dot.png", "__MACOSX/a/z.png"):
        picture(tmp_path / hidden)
    data = images(tmp_path)
    assert data.facts.features["label"].class_names == ["a", "b"]
    assert data.facts.num_samples == {"train": 8, "val": 4, "test": 6}
    assert data.names["val"] == ["Valid/a/0.PNG", "Valid/a/1.PNG", "Valid/b/0.PNG", "Valid/b/1.PNG"]
    assert "Training/a/.dot.png" in data.report.full()
    found = ImageFeature(3, 8).find(str(tmp_path))
    assert len(found) == 18
    picture(tmp_path / "dev/a/0.png")
    with pytest.raises(UserError, match="has Valid and dev, which are both val"):
        images(tmp_path)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["seg_train/a", "seg_train/b", "seg_test/a"],
            "has seg_test, seg_train; expected train, optionally val and test",
        ),
        (["train/a", "train/b", "other/a"], "has other, train; expected train"),
        (["archive/train/a", "archive/train/b", "archive/test/a"], "one folder, with the folders test, train. Is it "),
        (["archive/a", "archive/b"], r"one folder, with the folders a, b. Is it data.root=.*/archive\?"),
        (["a/train", "a/test", "b/train", "b/test"], "a holds test, train; expected the splits first, such as test/a"),
        (["a"], "every training sample has the class a. A classifier needs two"),
        (["train/a", "train/b", "test/"], "test has no folders, but 4 files.*without a class are for lab predict"),
    ],
)
def test_a_layout_that_is_none_of_ours_is_refused(tmp_path, folders, said):
    for folder in folders:
        pictures(tmp_path / "x" / folder, [""])
    with pytest.raises(UserError, match=said) as error:
        images(tmp_path / "x")
    assert "\n" not in str(error.value)


def test_classes_may_be_named_like_splits_in_part(tmp_path):
    pictures(tmp_path, ["train_station", "bus stop"])
    assert images(tmp_path).facts.features["label"].class_names == ["bus stop", "train_station"]


@pytest.mark.parametrize("name", ["@eaDir", "lost+found", "__pycache__", "$RECYCLE.BIN", "Thumbs.db", ".DS_Store"])
def test_what_a_system_makes_is_no_sample(tmp_path, name):
    pictures(tmp_path)
    picture(tmp_path / name / "x.png")
    picture(tmp_path / "a" / name / "deeper" / "x.png")
    data = images(tmp_path)
    assert sum(data.facts.num_samples.values()) == 8
    assert data.facts.features["label"].class_names == ["a", "b"]
    assert f"a/{name}" in data.report.full()
    assert "2 hidden files and folders" in data.report.short()


def test_two_spellings_of_a_name_in_unicode_are_one_class(tmp_path):
    pictures(tmp_path / "train", ["caf\u00e9", "b"])
    pictures(tmp_path / "test", ["cafe\u0301", "b"])
    assert images(tmp_path).facts.features["label"].class_names == ["b", "caf\u00e9"]


def test_names_that_look_the_same_are_warned_of():
    report = DataReport()
    report.count_classes({}, ["pos", "Pos", "neg", "po\u200bs", "+", "-", ""])
    assert report.warnings == [r"'pos' and 'Pos' and 'po\u200bs' are different classes with almost equal names"]


def test_the_full_report_has_every_name(tmp_path):
    pictures(tmp_path, num=40)
    for i in range(30):
        (tmp_path / f"a/{i}.png").write_text("no image")
    with pytest.raises(UserError, match=r"30 of 80 .*\n(.*\n){20}  … and 10 more, which lab data"):
        images(tmp_path)
    report = images(tmp_path, "data.skip_unreadable=true").report
    assert all(f"a/{i}.png is not a readable image" in report.full() for i in range(30))
    report.count_classes({"test": []}, [f"class {i}" for i in range(100)])
    assert "class 99" in report.full()
    assert len(report.short().splitlines()) <= 12
    assert max(map(len, report.short().splitlines())) <= 160


def test_a_long_report_is_short_on_the_screen():
    report = DataReport(found=list("abcdef"), samples={"train": 1, "val": 1, "test": 1}, warnings=list("abcdef"))
    for name in "abcdef":
        report.leave_out(f"of {name}", [name])
    assert len(report.short().splitlines()) == 12
    assert "4 more: lab data" in report.short()


@pytest.mark.parametrize("is_checked", [True, False])
def test_the_files_of_a_resumed_run_are_not_decoded_again(compose, tmp_path, monkeypatch, is_checked):
    pictures(tmp_path)
    decoded = []
    monkeypatch.setattr(image_folder, "unreadable", lambda paths, *_: decoded.extend(paths) or {})
    cfg = compose("experiment=image_folder", f"data.root={tmp_path}", "data.num_workers=0")
    read_data(cfg, is_checked=is_checked)
    assert len(decoded) == (0 if is_checked else 8)


def test_links_to_folders_are_read_alike_in_training_and_prediction(tmp_path):
    pictures(tmp_path / "elsewhere", "c")
    pictures(tmp_path / "x")
    (tmp_path / "x/c").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "x/a/loop").symlink_to(tmp_path / "x/a")
    assert images(tmp_path / "x").facts.features["label"].class_names == ["a", "b", "c"]
    assert len(ImageFeature(3, 8).find(str(tmp_path / "x"))) == 12 == len(list(files_below(tmp_path / "x")))


def test_val_may_lack_a_class_that_train_has(tmp_path):
    pictures(tmp_path / "train", "abc")
    pictures(tmp_path / "val", "ab")
    pictures(tmp_path / "test", "bc")
    data = images(tmp_path)
    assert data.report.classes["val"] == {"a": 4, "b": 4, "c": 0}
    assert "val has no sample of c" in data.report.short()
    assert "test has no sample of a, and gives no score for it" in data.report.short()


def test_a_class_without_test_samples_has_no_score():
    metric = ValuePerClass(ClassAccuracy(3), ["a", "b", "c"], prefix="acc/")
    metric.update(torch.tensor([0, 2, 2]), torch.tensor([0, 0, 2]))
    assert {name: value.item() for name, value in metric.compute().items()} == {"acc/a": 0.5, "acc/c": 1.0}


def test_train_has_all_classes_where_groups_are_drawn():
    label = torch.tensor([0] * 40 + [1] * 4)
    group = [str(i // 4) for i in range(44)]  # class 1 is one group
    for seed in range(5):
        assert 1 in label[grouped_split(label, {"val": 0.2, "test": 0.2}, seed, group)["train"]]


def broken(folder):
    pictures(folder, num=6)
    whole = (folder / "a/0.png").read_bytes()
    (folder / "a/1.png").write_bytes(whole[:60])
    (folder / "b/1.png").write_bytes(b"")
    (folder / "b/2.png").write_text("a text")


def test_all_unreadable_images_are_named_at_once_or_left_out(tmp_path):
    broken(tmp_path)
    with pytest.raises(UserError, match=r"3 of 12 images can't be read.*data.skip_unreadable=true") as error:
        images(tmp_path)
    assert [line.split(" is not")[0].rpartition("/")[2] for line in str(error.value).splitlines()[1:]] == [
        "1.png", "1.png", "2.png",
    ]  # fmt: skip
    data = images(tmp_path, "data.skip_unreadable=true")
    assert sum(data.facts.num_samples.values()) == 9
    assert "3 images that can't be read" in data.report.short()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_picture_with_a_pixel_that_is_no_number_is_unreadable(tmp_path, value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = value
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match="not a readable image .*NaN or infinite"):
        read_image(tmp_path / "x.tiff", 1, 8)


def test_a_picture_of_the_same_size_is_other_data_and_a_moved_root_is_the_same(tmp_path):
    pictures(tmp_path / "x")
    before = images(tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "2024")
    after = images(tmp_path / "2024")
    assert (after.facts.fingerprint, after.names) == (before.facts.fingerprint, before.names)
    pictures(tmp_path / "2024", "c")  # a bitmap of 8×8 pixels has one size, whatever it shows
    for path in sorted((tmp_path / "2024").glob("*/*")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    before = images(tmp_path / "2024").facts
    one, other = tmp_path / "2024/a/0.bmp", tmp_path / "2024/b/0.bmp"
    assert one.stat().st_size == other.stat().st_size
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    after = images(tmp_path / "2024").facts
    assert after.num_samples == before.num_samples
    assert after.fingerprint != before.fingerprint


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


def test_lab_data_prints_the_whole_report(tmp_path, monkeypatch, capsys):
    broken(tmp_path / "x")
    monkeypatch.setattr(sys, "argv", ["lab", "data", "experiment=image_folder", f"data.root={tmp_path}/x",
                                      "data.skip_unreadable=true"])  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(cli.main) == 0
    said = capsys.readouterr().out
    assert "12 images in a folder for each class" in said
    assert "  a/1.png is not a readable image (" in said
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
    test.main(compose_config("test", [f"run={folder}", f"data.root={tmp_path}/y"]))
    assert "warning" not in capsys.readouterr().err
    pictures(tmp_path / "z", num=10)
    test.main(compose_config("test", [f"run={folder}", f"data.root={tmp_path}/z"]))
    assert "warning: the data has changed since" in capsys.readouterr().err


def test_a_run_goes_on_where_its_data_is_now_unless_it_is_other_data(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "x", num=10)
    words = ("experiment=image_folder", f"data.root={tmp_path}/x", "debug=two_batches", "data.num_workers=0")
    folder = trained(*words)
    (tmp_path / "x").rename(tmp_path / "2024")
    cfg = OmegaConf.load(folder / "config.yaml")
    cfg.data.root = "2024"
    user_paths.make_paths_absolute(cfg)
    assert cfg.data.root == str(tmp_path / "2024")
    resume.check_same_data(read_data(cfg), folder)
    picture(tmp_path / "2024/a/0.png")
    with pytest.raises(UserError, match="the data has changed since"):
        resume.check_same_data(read_data(cfg), folder)


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
