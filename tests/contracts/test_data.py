"""The contract of every data module, by its tiny version; then what is particular to images."""

import itertools
import shutil
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import fitting, options
from PIL import Image

from lab.build import read_data
from lab.data import tiny
from lab.data.augment import Augment, uniform
from lab.data.images import ImageData
from lab.data.pixels import kept_pixel_levels
from lab.data.samplers import shard
from lab.data.split import fold_split, grouped_split, stratified_split
from lab.engine.config import allow
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.features.labels import ClassLabel
from lab.features.read_image import read_image
from lab.testing import DataContract

DATA = {
    name: allow.locate(compose_config("train", ["experiment=digits", f"data={name}"]).data._target_)
    for name in options("data")
}
IMAGES = [name for name, kind in DATA.items() if issubclass(kind, ImageData)]
TWINS = [name for name in DATA if name in ("emoji_languages", "ag_news", "imdb", "sst2")]  # short texts are alike
CLASSES = [name for name, kind in DATA.items() if ClassLabel in kind.features.values()]


def read(compose, name, *more):
    return read_data(compose(fitting(f"data={name}"), f"data={name}", "data.tiny=true", *more))


def words(name):
    return [fitting(f"data={name}"), f"data={name}", "data.tiny=true"]


class TestEveryDataModule(DataContract):
    @pytest.fixture(params=[name for name in DATA if name not in TWINS])
    def overrides(self, request):
        return words(request.param)


class TestDataWithTwins(DataContract):
    has_twins = True

    @pytest.fixture(params=TWINS)
    def overrides(self, request):
        return words(request.param)


@pytest.fixture(params=CLASSES)
def classes(request, compose):
    return read(compose, request.param, "data.batch_size=16")


@pytest.fixture(params=IMAGES)
def images(request, compose):
    return read(compose, request.param, "data.batch_size=16")


def test_images_travel_as_uint8(images):
    image = images.facts.features["image"]
    for loader in (images.train_dataloader(), images.val_dataloader(), images.test_dataloader()):
        batch = next(iter(loader))
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape[1:] == (image.num_channels, image.image_size, image.image_size)


def test_splits_are_stratified(classes):
    labels = {name: torch.cat([b["label"] for b in loader]) for name, loader in _all_loaders(classes).items()}
    assert {name: len(label) for name, label in labels.items()} == classes.facts.num_samples
    for label in labels.values():
        counts = label.bincount(minlength=classes.facts.features["label"].num_classes)
        assert counts.min() > 0
        assert counts.max() <= 1.5 * counts.min() + 2


def test_no_image_is_in_two_splits_or_twice_in_one(images):
    every = torch.cat([b["image"].flatten(1) for loader in _all_loaders(images).values() for b in loader])
    assert len(every.unique(dim=0)) == len(every)


def _all_loaders(data):
    """The training split without order or dropped batches, and the other two."""
    train = data._loader(data.splits["train"], batch_size=16)
    return {"train": train, "val": data.val_dataloader(), "test": data.test_dataloader()}


def test_normalised_to_zero_mean_and_unit_deviation(images):
    image = torch.cat([images.on_after_batch_transfer(b)["image"] for b in _all_loaders(images)["train"]])
    assert image.dtype == torch.float32
    torch.testing.assert_close(
        image.mean((0, 2, 3)), torch.zeros(images.facts.features["image"].num_channels), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(
        image.std((0, 2, 3)), torch.ones(images.facts.features["image"].num_channels), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("num", "size", "world"),
    [
        (10, 4, 1), (10, 4, 3), (13, 4, 3), (7, 3, 2), (3, 8, 3), (97, 16, 4), (5, 1, 2), (7, 1, 4), (3, 1, 3),
        (9, 2, 4), (4, 1, 1), (11, 2, 5),
    ],
)  # fmt: skip
def test_shards_cover_every_sample_once_in_equally_many_batches(num, size, world):
    shards = [shard(num, size, rank, world) for rank in range(world)]
    assert sorted(i for batches in shards for batch in batches for i in batch) == list(range(num))
    assert len({len(batches) for batches in shards}) == 1
    one_more = num // world < -(-num // (size * world))
    assert all(0 < len(batch) <= size + one_more for batches in shards for batch in batches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_image_that_evaluation_normalised_first_has_gradients(dtype, compose):
    """A generator's image, which a judge prepares in a training step."""
    kept_pixel_levels.cache_clear()
    data = read(compose, "digits", "data.image_size=8")
    image = torch.full((2, 1, 8, 8), 100, dtype=dtype, requires_grad=True)
    with torch.inference_mode():
        data.on_after_batch_transfer({"image": image.detach(), "index": torch.arange(2)})
        assert not kept_pixel_levels((0.5,), dtype, image.device).is_inference()
    data.on_after_batch_transfer({"image": image, "index": torch.arange(2)})["image"].sum().backward()
    assert image.grad.all()


def test_every_sample_is_in_one_fold_and_every_fold_has_its_share_of_each_class():
    label = torch.tensor([0] * 20 + [1] * 60)
    folds = [fold_split(label, 4, fold, seed=0) for fold in range(4)]
    assert sorted(i for _, inside in folds for i in inside) == list(range(80))
    for outside, inside in folds:
        assert sorted(outside + inside) == list(range(80))
        assert label[inside].bincount().tolist() == [5, 15]
    assert folds[0] != fold_split(label, 4, 0, seed=1)
    outside, inside = fold_split(label, 21, 0, seed=0)
    assert set(range(20)) <= set(outside), "a class that is too rare for the folds is in none"
    assert set(label[inside].tolist()) == {1}
    with pytest.raises(UserError, match="no class has more than 60 samples, too few for 61 folds"):
        fold_split(label, 61, 0, seed=0)


def test_no_group_is_in_two_parts():
    label = torch.arange(300) % 3
    group = [f"patient {i // 10}" for i in range(300)]
    parts = grouped_split(label, {"val": 0.1, "test": 0.25}, 0, group)
    assert sorted(i for part in parts.values() for i in part) == list(range(300))
    assert abs(len(parts["val"]) - 30) <= 10
    assert abs(len(parts["test"]) - 75) <= 15
    folds = [fold_split(label, 5, fold, 0, group) for fold in range(5)]
    for of in (list(parts.values()), *folds):
        assert sum(len({group[i] for i in part}) for part in of) == 30
    with pytest.raises(UserError, match="30 groups, too few for 31 folds"):
        fold_split(label, 31, 0, 0, group)


def test_stratified_split_takes_its_share_of_each_class():
    label = torch.tensor([0] * 100 + [1] * 40 + [2] * 4)
    parts = stratified_split(label, {"val": 0.1, "test": 0.25}, seed=0)
    assert label[parts["val"]].bincount().tolist() == [10, 4, 1]
    assert label[parts["test"]].bincount().tolist() == [25, 10, 1]
    assert sorted(itertools.chain(*parts.values())) == list(range(144))
    parts = stratified_split(torch.tensor([0] * 100 + [1] * 2 + [2]), {"val": 0.1, "test": 0.25}, seed=0)
    assert parts["train"][-3:] == [100, 101, 102], "classes that are too rare to be split are in train"
    with pytest.raises(UserError, match="too few samples for train, val and test: the largest has 2"):
        stratified_split(torch.tensor([0, 0]), {"val": 0.1, "test": 0.1}, seed=0)


def test_digits_are_scikit_learns(compose):
    from sklearn.datasets import load_digits

    splits = read_data(compose("experiment=digits", "data.image_size=8")).splits.values()
    image, label = (torch.cat([split.tensors[name] for split in splits]) for name in ("image", "label"))
    digits = load_digits()
    ours = sorted(zip(label.tolist(), (image[:, 0] * (16 / 255)).round().long().flatten(1).tolist(), strict=True))
    assert ours == sorted(zip(digits.target.tolist(), digits.data.astype(int).tolist(), strict=True))


class TestAugment:
    @staticmethod
    def augmented(augment, image, numbers, monkeypatch):
        monkeypatch.setattr("lab.data.augment.uniform", lambda *_: numbers.expand(len(image), 9))
        return augment(image, torch.arange(len(image)), 0, 0)

    def test_nothing_asked_for_changes_nothing(self):
        image = torch.rand(4, 3, 9, 9)
        torch.testing.assert_close(Augment()(image, torch.arange(4), 0, 0), image)

    def test_flip_mirrors_about_half_of_the_images(self):
        image = torch.rand(400, 1, 6, 6)
        out = Augment(flip=True)(image, torch.arange(400), 0, 0)
        flipped = (out == image.flip(-1)).all((1, 2, 3))
        same = (out == image).all((1, 2, 3))
        assert (flipped ^ same).all()
        assert 160 < flipped.sum() < 240

    def test_alternating_flip_shows_both_sides_in_any_two_epochs(self):
        image, index = torch.rand(400, 1, 6, 6), torch.arange(400)
        epochs = [Augment(flip="alternating")(image, index, 0, epoch) for epoch in range(4)]
        assert 160 < (epochs[0] == image).all((1, 2, 3)).sum() < 240
        assert all(later.equal(earlier.flip(-1)) for earlier, later in itertools.pairwise(epochs))

    def test_crop_takes_every_window_of_the_mirrored_border(self):
        image = torch.rand(1, 2, 5, 5)
        padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")[0]
        windows = [padded[:, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
        out = Augment(crop=1)(image.expand(300, 2, 5, 5), torch.arange(300), 0, 0)
        counts = [sum(window.equal(one) for one in out) for window in windows]
        assert sum(counts) == 300
        assert min(counts) > 15

    def test_shift_moves_by_whole_pixels_where_the_number_says_so(self, monkeypatch):
        image = torch.rand(1, 1, 10, 10)
        numbers = torch.tensor([0.9, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5])  # as far right of the centre as it goes
        out = self.augmented(Augment(shift=0.2), image, numbers, monkeypatch)
        torch.testing.assert_close(out[..., :-2], image[..., 2:], atol=1e-5, rtol=0)
        assert not out[..., -2:].any()

    def test_a_quarter_turn(self, monkeypatch):
        image = torch.rand(1, 1, 8, 8)
        numbers = torch.tensor([0.9, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
        out = self.augmented(Augment(rotate=90), image, numbers, monkeypatch)
        turned = min(((out - image.rot90(k, (-2, -1))).abs().max().item(), k) for k in range(4))
        assert turned[0] < 1e-5
        assert turned[1] in (1, 3)

    def test_cutout_erases_its_square_and_no_more(self, monkeypatch):
        out = self.augmented(Augment(cutout=0.5), torch.ones(1, 2, 8, 8), torch.full((9,), 0.5), monkeypatch)
        assert out[0, 0].sum() == 64 - 16
        assert not out[0, :, 2:6, 2:6].any()

    def test_an_image_is_augmented_alike_in_any_batch(self):
        image, index = torch.rand(8, 1, 9, 9), torch.arange(8)
        augment = Augment(flip=True, crop=1, rotate=20, scale=0.2, shift=0.2, cutout=0.3)
        whole = augment(image, index, 3, 5)
        some = torch.tensor([6, 1])
        torch.testing.assert_close(augment(image[some], index[some], 3, 5), whole[some])
        one = image[:1].expand_as(image)
        assert len(augment(one, index, 3, 5).unique(dim=0)) == 8, "two images are augmented alike"
        assert not augment(image, index, 3, 6).allclose(whole), "two epochs are augmented alike"
        assert not augment(image, index, 4, 5).allclose(whole), "two seeds are augmented alike"

    def test_numbers_are_uniform_and_independent(self):
        u = torch.cat([uniform(seed, epoch, torch.arange(500), 9) for seed in range(4) for epoch in range(5)]).double()
        assert 0 <= u.min() < u.max() < 1
        torch.testing.assert_close(u.mean(0), torch.full((9,), 0.5).double(), atol=0.02, rtol=0)
        torch.testing.assert_close(u.T.cov(), torch.eye(9).double() / 12, atol=4e-3, rtol=0)
        assert u.unique().numel() > 0.99 * u.numel()


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_mode_is_read(mode, num_channels, tmp_path):
    left_black = Image.new("L", (30, 20))
    left_black.paste(255, (15, 0, 30, 20))
    picture = (
        left_black.convert("RGB").convert(mode)
        if mode in ("CMYK", "YCbCr", "HSV")
        else left_black.convert({"I;16": "I", "P": "L", "RGBA": "RGB"}.get(mode, mode))
    )
    picture = picture.convert(mode)
    if mode == "HSV":
        picture = picture.convert("RGB")  # no format stores it
    path = (
        tmp_path / f"picture.{'jpg' if mode in ('CMYK', 'YCbCr') else 'tiff' if mode in ('I', 'I;16', 'F') else 'png'}"
    )
    picture.save(path)
    image = read_image(path, num_channels, 8)
    assert image.shape == (num_channels, 8, 8)
    assert image.dtype == np.uint8
    assert image[:, :, :3].mean() < 20
    assert image[:, :, -3:].mean() > 235
    assert (read_image(BytesIO(path.read_bytes()), num_channels, 8) == image).all()


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 31), (400, 2), (1, 1), (8, 8)])
def test_the_centre_square_of_any_shape(width, height):
    """As large as the shorter side, and nothing beyond it but what a pixel at its edge is mixed with."""
    side = min(width, height)
    left, top, mixed = (width - side) // 2, (height - side) // 2, max(1, side // 8)
    picture = Image.new("L", (width, height), 255)
    picture.paste(0, (left - mixed, top - mixed, left + side + 1 + mixed, top + side + 1 + mixed))
    file = BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    assert read_image(file, 1, 8).max() == 0


def test_a_picture_stands_as_the_camera_was_held(tmp_path):
    picture = Image.new("L", (20, 20))
    picture.paste(255, (0, 0, 10, 20))  # white on the left; turned by a quarter, on top
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    image = read_image(str(tmp_path / "a.jpg"), 1, 20)[0]
    assert image[:8].mean() > 240
    assert image[12:].mean() < 15


def test_a_large_jpeg_is_decoded_no_larger_than_needed(tmp_path):
    left_black = Image.new("RGB", (1200, 800))
    left_black.paste((255, 0, 0), (600, 0, 1200, 800))
    left_black.save(tmp_path / "a.jpg", quality=95)
    left_black.save(tmp_path / "a.png")
    jpeg, png = (read_image(str(tmp_path / name), 3, 32).astype(int) for name in ("a.jpg", "a.png"))
    assert jpeg.shape == (3, 32, 32)
    assert abs(jpeg - png).max() <= 8


def test_debians_files_are_unpacked_once(compose, tmp_path, monkeypatch):
    import gzip

    from torchvision import datasets

    from lab.data.torchvision import DEBIAN

    source, debian = tiny.torchvision_images(datasets.FashionMNIST)[0], tmp_path / "debian"
    debian.mkdir()
    for path in (source / "FashionMNIST/raw").iterdir():
        (debian / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setitem(DEBIAN, "FashionMNIST", debian)
    root = tmp_path / "root"
    data = read_data(compose("experiment=digits", "data=fashion_mnist", f"data.root={root}"))
    assert data.facts.num_samples == {"train": 140, "val": 20, "test": 40}
    assert [path.name for path in (root / "FashionMNIST").iterdir()] == ["raw"]


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_image(str(tmp_path / "a.png"), 3, 8).min() == 255


class TestImageFolder:
    def data(self, compose, root, *more):
        return read_data(compose("experiment=image_folder", f"data.root={root}", "data.num_workers=0", *more))

    @staticmethod
    def fill(folder, classes="ab", num=4):
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(num):
                Image.new("RGB", (20, 12), (i, ord(name), 0)).save(folder / name / f"{i}.png")

    def test_classes_are_the_folders(self, compose, tmp_path):
        self.fill(tmp_path / "x", "cab")
        data = self.data(compose, tmp_path / "x")
        assert data.facts.features["label"].class_names == ["a", "b", "c"]
        assert data.facts.num_samples == {"train": 6, "val": 3, "test": 3}

    def test_folders_that_are_splits_are_the_splits(self, compose, tmp_path):
        for split, num in {"train": 5, "val": 2, "test": 3}.items():
            self.fill(tmp_path / "x" / split, num=num)
        assert self.data(compose, tmp_path / "x").facts.num_samples == {"train": 10, "val": 4, "test": 6}

    def test_a_missing_split_is_taken_from_train(self, compose, tmp_path):
        self.fill(tmp_path / "x/train", num=10)
        self.fill(tmp_path / "x/test", num=3)
        data = self.data(compose, tmp_path / "x", "data.val_fraction=0.2")
        assert data.facts.num_samples == {"train": 16, "test": 6, "val": 4}

    @pytest.mark.parametrize("names", [("a", "b", "test"), ("val", "test"), ("train", "valid", "others")])
    def test_half_a_split_is_refused(self, compose, tmp_path, names):
        for name in names:
            self.fill(tmp_path / "x" / name)
        with pytest.raises(UserError, match="expected train, optionally val and test"):
            self.data(compose, tmp_path / "x")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda x: None, "is not a folder"),
            (lambda x: x.mkdir(), "is empty. It holds a folder of images for each class"),
            (lambda x: (x / "a").mkdir(parents=True), "x/a has no images"),
            (lambda x: TestImageFolder.fill(x, num=2), "the largest has 2"),
        ],
    )
    def test_a_folder_that_is_none_is_named(self, compose, tmp_path, make, message):
        make(tmp_path / "x")
        with pytest.raises(UserError, match=message):
            self.data(compose, tmp_path / "x")

    def test_a_cached_set_is_the_same_and_reads_no_file_again(self, compose, tmp_path):
        self.fill(tmp_path / "x")
        plain, cached = (self.data(compose, tmp_path / "x", f"data.cache={cache}") for cache in ("false", "true"))
        assert cached.facts == plain.facts
        before = [batch for loader in _all_loaders(plain).values() for batch in loader]
        shutil.rmtree(tmp_path / "x")
        after = [batch for loader in _all_loaders(cached).values() for batch in loader]
        assert len(before) == len(after) == 3
        assert all(a[name].equal(b[name]) for a, b in zip(before, after, strict=True) for name in a)

    def test_a_cached_set_is_decoded_once(self, compose, tmp_path, monkeypatch):
        self.fill(tmp_path / "x")
        read = []
        monkeypatch.setattr(
            "lab.data.decoded.read_image", lambda path, *size: read.append(path) or read_image(path, *size)
        )
        monkeypatch.setattr("lab.data.image_files.read_image", None)
        self.data(compose, tmp_path / "x", "data.cache=true")
        assert sorted(read) == sorted(map(str, (tmp_path / "x").rglob("*.png")))

    def test_a_set_that_does_not_fit_into_memory_is_not_cached(self, compose, tmp_path, monkeypatch, capsys):
        self.fill(tmp_path / "x")
        plain = self.data(compose, tmp_path / "x")
        monkeypatch.setattr("lab.data.decoded.available", lambda: 1000.0)
        other = self.data(compose, tmp_path / "x", "data.cache=true")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: data.cache: 8 images need")
        assert other.facts == plain.facts
        batches = ([batch for loader in _all_loaders(data).values() for batch in loader] for data in (plain, other))
        assert all(a["image"].equal(b["image"]) for a, b in zip(*batches, strict=True))

    def test_a_corrupt_image_of_a_cached_set_is_named_or_left_out(self, compose, tmp_path):
        self.fill(tmp_path / "x")
        (tmp_path / "x/a/1.png").write_bytes((tmp_path / "x/a/2.png").read_bytes()[:40])
        with pytest.raises(UserError, match=r"a/1.png is not a readable image"):
            self.data(compose, tmp_path / "x", "data.cache=true")
        skip = "data.skip_unreadable=true"
        plain, cached = (self.data(compose, tmp_path / "x", skip, *more) for more in ((), ("data.cache=true",)))
        assert cached.facts == plain.facts

    def test_no_root(self, compose):
        with pytest.raises(UserError, match="data.root=PATH"):
            read_data(compose("experiment=image_folder"))

    def test_a_corrupt_image_is_named(self, compose, tmp_path):
        self.fill(tmp_path / "x")
        (tmp_path / "x/a/1.png").write_bytes((tmp_path / "x/a/2.png").read_bytes()[:40])
        with pytest.raises(UserError, match=r"a/1.png is not a readable image"):
            _read_all(compose, tmp_path / "x")


def _read_all(compose, root):
    data = TestImageFolder().data(compose, root)
    return [list(loader) for loader in _all_loaders(data).values()]


def test_a_set_that_can_not_be_had_is_said_in_a_line(compose, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(UserError, match=r"KMNIST is not in .*no network.*data.root=PATH"):
        read_data(compose("experiment=digits", "data=kmnist", f"data.root={tmp_path}/nothing"))
