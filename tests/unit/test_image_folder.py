"""Folders of images, and public sets that are on no disk."""

import shutil

import pytest
from PIL import Image
from roots import read_root

from lab.build import read_data
from lab.data import tiny
from lab.engine.errors import UserError
from lab.features.read_image import read_image


def test_debians_files_are_unpacked_once(tmp_path, monkeypatch):
    import gzip

    from torchvision import datasets

    from lab.data.torchvision import DEBIAN

    source, debian = tiny.torchvision_images(datasets.FashionMNIST)[0], tmp_path / "debian"
    debian.mkdir()
    for path in (source / "FashionMNIST/raw").iterdir():
        (debian / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setitem(DEBIAN, "FashionMNIST", debian)
    root = tmp_path / "root"
    data = read_root("digits", root, "data=fashion_mnist")
    assert data.facts.num_samples == {"train": 140, "val": 20, "test": 40}
    assert [path.name for path in (root / "FashionMNIST").iterdir()] == ["raw"]


class TestImageFolder:
    def data(self, root, *more):
        return read_root("image_folder", root, "data.num_workers=0", *more)

    @staticmethod
    def fill(folder, classes="ab", num=4):
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(num):
                Image.new("RGB", (20, 12), (i, ord(name), 0)).save(folder / name / f"{i}.png")

    def test_classes_are_the_folders(self, tmp_path):
        self.fill(tmp_path / "x", "cab")
        data = self.data(tmp_path / "x")
        assert data.facts.features["label"].class_names == ["a", "b", "c"]
        assert data.facts.num_samples == {"train": 6, "val": 3, "test": 3}

    def test_folders_that_are_splits_are_the_splits(self, tmp_path):
        for split, num in {"train": 5, "val": 2, "test": 3}.items():
            self.fill(tmp_path / "x" / split, num=num)
        assert self.data(tmp_path / "x").facts.num_samples == {"train": 10, "val": 4, "test": 6}

    def test_a_missing_split_is_taken_from_train(self, tmp_path):
        self.fill(tmp_path / "x/train", num=10)
        self.fill(tmp_path / "x/test", num=3)
        data = self.data(tmp_path / "x", "data.val_fraction=0.2")
        assert data.facts.num_samples == {"train": 16, "test": 6, "val": 4}

    @pytest.mark.parametrize("names", [("a", "b", "test"), ("val", "test"), ("train", "valid", "others")])
    def test_half_a_split_is_refused(self, tmp_path, names):
        for name in names:
            self.fill(tmp_path / "x" / name)
        with pytest.raises(UserError, match="expected train, optionally val and test"):
            self.data(tmp_path / "x")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda x: None, "is not a folder"),
            (lambda x: x.mkdir(), "is empty. It holds a folder of images for each class"),
            (lambda x: (x / "a").mkdir(parents=True), "x/a has no images"),
            (lambda x: TestImageFolder.fill(x, num=2), "the largest has 2"),
        ],
    )
    def test_a_folder_that_is_none_is_named(self, tmp_path, make, message):
        make(tmp_path / "x")
        with pytest.raises(UserError, match=message):
            self.data(tmp_path / "x")

    def test_a_cached_set_is_the_same_and_reads_no_file_again(self, tmp_path):
        self.fill(tmp_path / "x")
        plain, cached = (self.data(tmp_path / "x", f"data.cache={cache}") for cache in ("false", "true"))
        assert cached.facts == plain.facts
        before = [split.__getitems__(list(range(len(split)))) for split in plain.splits.values()]
        shutil.rmtree(tmp_path / "x")
        after = [split.__getitems__(list(range(len(split)))) for split in cached.splits.values()]
        assert len(before) == len(after) == 3
        assert all(a[name].equal(b[name]) for a, b in zip(before, after, strict=True) for name in a)

    def test_a_cached_set_is_decoded_once(self, tmp_path, monkeypatch):
        self.fill(tmp_path / "x")
        read = []
        once = lambda path, *size: read.append(path) or read_image(path, *size)  # noqa: E731
        monkeypatch.setattr("lab.data.decoded.read_image", once)
        monkeypatch.setattr("lab.data.image_files.read_image", None)
        self.data(tmp_path / "x", "data.cache=true")
        assert sorted(read) == sorted(map(str, (tmp_path / "x").rglob("*.png")))

    def test_a_set_that_does_not_fit_into_memory_is_not_cached(self, tmp_path, monkeypatch, capsys):
        self.fill(tmp_path / "x")
        plain = self.data(tmp_path / "x")
        monkeypatch.setattr("lab.data.decoded.available", lambda: 1000.0)
        other = self.data(tmp_path / "x", "data.cache=true")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: data.cache: 8 images need")
        assert other.facts == plain.facts
        for name, split in plain.splits.items():
            every = list(range(len(split)))
            assert other.splits[name].__getitems__(every)["image"].equal(split.__getitems__(every)["image"])

    def test_a_corrupt_image_of_a_cached_set_is_named_or_left_out(self, tmp_path):
        self.fill(tmp_path / "x")
        (tmp_path / "x/a/1.png").write_bytes((tmp_path / "x/a/2.png").read_bytes()[:40])
        with pytest.raises(UserError, match=r"a/1.png is not a readable image"):
            self.data(tmp_path / "x", "data.cache=true")
        skip = "data.skip_unreadable=true"
        plain, cached = (self.data(tmp_path / "x", skip, *more) for more in ((), ("data.cache=true",)))
        assert cached.facts == plain.facts

    def test_no_root(self, compose):
        with pytest.raises(UserError, match="data.root=PATH"):
            read_data(compose("experiment=image_folder"))

    def test_a_corrupt_image_is_named(self, tmp_path):
        self.fill(tmp_path / "x")
        (tmp_path / "x/a/1.png").write_bytes((tmp_path / "x/a/2.png").read_bytes()[:40])
        with pytest.raises(UserError, match=r"a/1.png is not a readable image"):
            self.data(tmp_path / "x")


def test_a_set_that_can_not_be_had_is_said_in_a_line(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(UserError, match=r"KMNIST is not in .*no network.*data.root=PATH"):
        read_root("digits", tmp_path / "nothing", "data=kmnist")
