"""The contract of every data module, by its tiny version; then what is particular to images."""

import pytest
import torch
from conftest import CONF, fitting, options
from omegaconf import OmegaConf

from lab.build import read_data
from lab.data.images import ImageData
from lab.data.pixels import kept_pixel_levels
from lab.engine.config import allow
from lab.features.labels import ClassLabel
from lab.testing import DataContract
from lab.testing.base import read

WORDS = {"image_folder": ["data.num_workers=0"]}  # the processes that load are tested in system/test_bad_input.py


def kind_of(name):
    """The class that a YAML of conf/data names, or its parent."""
    content = OmegaConf.load(CONF / f"data/{name}.yaml")
    return allow.locate(content._target_) if "_target_" in content else kind_of(content.defaults[0])


DATA = {name: kind_of(name) for name in options("data")}
IMAGES = [name for name, kind in DATA.items() if issubclass(kind, ImageData)]
TWINS = [name for name in DATA if name in ("emoji_languages", "ag_news", "imdb", "sst2")]  # short texts are alike
CLASSES = [name for name, kind in DATA.items() if ClassLabel in kind.features.values()]


def words(name):
    return [fitting(f"data={name}"), f"data={name}", "data.tiny=true", *WORDS.get(name, ())]


class TestEveryDataModule(DataContract):
    @pytest.fixture(params=[name for name in DATA if name not in TWINS])
    def overrides(self, request):
        return words(request.param)


class TestDataWithTwins(DataContract):
    has_twins = True

    @pytest.fixture(params=TWINS)
    def overrides(self, request):
        return words(request.param)


def tiny_data(name, *more):
    """The tiny version, in batches of 16."""
    data = read([*words(name), *more])
    data.batch_size = 16
    return data


@pytest.fixture(params=CLASSES)
def classes(request):
    return tiny_data(request.param)


@pytest.fixture(params=IMAGES)
def images(request):
    return tiny_data(request.param)


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
    train = data.splits["train"]
    batches = [train.__getitems__(index.tolist()) for index in torch.arange(len(train)).split(16)]
    return {"train": batches, "val": data.val_dataloader(), "test": data.test_dataloader()}


def test_normalised_to_zero_mean_and_unit_deviation(images):
    image = torch.cat([images.on_after_batch_transfer(b)["image"] for b in _all_loaders(images)["train"]])
    assert image.dtype == torch.float32
    torch.testing.assert_close(
        image.mean((0, 2, 3)), torch.zeros(images.facts.features["image"].num_channels), atol=2e-3, rtol=0
    )
    torch.testing.assert_close(
        image.std((0, 2, 3)), torch.ones(images.facts.features["image"].num_channels), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_image_that_evaluation_normalised_first_has_gradients(dtype):
    """A generator's image, which a judge prepares in a training step."""
    kept_pixel_levels.cache_clear()
    data = tiny_data("digits", "data.image_size=8")
    image = torch.full((2, 1, 8, 8), 100, dtype=dtype, requires_grad=True)
    with torch.inference_mode():
        data.on_after_batch_transfer({"image": image.detach(), "index": torch.arange(2)})
        assert not kept_pixel_levels((0.5,), dtype, image.device).is_inference()
    data.on_after_batch_transfer({"image": image, "index": torch.arange(2)})["image"].sum().backward()
    assert image.grad.all()


def test_digits_are_scikit_learns(compose):
    from sklearn.datasets import load_digits

    splits = read_data(compose("experiment=digits", "data.image_size=8")).splits.values()
    image, label = (torch.cat([split.tensors[name] for split in splits]) for name in ("image", "label"))
    digits = load_digits()
    ours = sorted(zip(label.tolist(), (image[:, 0] * (16 / 255)).round().long().flatten(1).tolist(), strict=True))
    assert ours == sorted(zip(digits.target.tolist(), digits.data.astype(int).tolist(), strict=True))
