"""The contract of every net, by its config; then what is particular to each."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from conftest import GENERATION, fitting, options
from steps import Rows
from torch import nn
from torchvision import models

from lab.data.facts import Facts
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.nets import flip
from lab.nets.airbench import Airbench, identity_convolution, patch_covariance
from lab.nets.cnn import CNN
from lab.nets.fast_cnn import FastCNN, Residual, ResNet9
from lab.nets.gan import GAN
from lab.nets.resnet import Block, ResNet
from lab.nets.torchvision import TorchvisionNet
from lab.nets.unet import UNet
from lab.nets.vae import VAE, Decoder
from lab.runs import check
from lab.runs.open import Run
from lab.testing import NetContract
from lab.testing.base import build, perturbed, tensors
from lab.testing.data import class_names
from lab.testing.nets import NUM
from lab.train import prepare

OTHERS = ("sentence_encoder", "audio_encoder", "torchvision_detection")  # test_pretrained, _audio_nets, _detection.py
NETS = [net for net in options("net") if net not in (*OTHERS, *GENERATION)]


class TestEveryNet(NetContract):
    @pytest.fixture(params=NETS)
    def overrides(self, request):
        return [fitting(f"net={request.param}"), f"net={request.param}", "data.tiny=true"]

    def test_nothing_is_frozen(self, net):
        frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
        assert not frozen or any(isinstance(module, Airbench) for module in net.modules())  # see its own test

    def test_it_tells_all_samples_apart(self, net, batch, data):
        """By their logits of each class, of each token that may come next, or of each candidate's class."""
        *_, logits = tensors(perturbed(net).eval()(**batch))
        assert len(logits.unique(dim=0)) == len(logits)
        if "objects" in data.facts.features:
            assert logits.shape[2:] == (data.facts.features["objects"].num_classes,)
            return
        if "target" in batch:
            assert logits.shape[:-1] == batch["target"].shape
        else:
            assert logits.shape[1:] == (len(class_names(data)["label"]),)


class TestGenerationNets(NetContract):
    """A U-Net, and each part of a VAE and of a GAN, with the inputs that the task draws."""

    @pytest.fixture(params=["unet", "vae.encoder", "vae.decoder", "gan.generator", "gan.discriminator"])
    def part(self, request):
        return request.param

    @pytest.fixture
    def overrides(self, part):
        name = part.partition(".")[0]
        return [fitting(f"net={name}"), "data.tiny=true", "net.width=16"]

    @pytest.fixture
    def net(self, part, cfg, data):
        return build(cfg, data).net.get_submodule(part.partition(".")[2])

    @pytest.fixture
    def batch(self, net, data):
        generator, size = torch.Generator().manual_seed(0), data.facts.features["image"].image_size
        entries = {
            "image": torch.randn(NUM, 1, size, size, generator=generator),
            "label": torch.arange(NUM),
            "time": torch.rand(NUM, generator=generator),
            "is_given": torch.arange(NUM) % 2 == 0,
        }
        if isinstance(net, Decoder):
            entries["latent"] = torch.randn(NUM, net.label_embedding.embedding_dim, generator=generator)
        return {name: entries[name] for name in inspect.signature(net.forward).parameters}


def test_an_image_whose_class_is_not_given_does_not_depend_on_it():
    net = perturbed(UNet(1, 8, 3, width=8)).eval()
    image, time, label = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 2])
    free, given = torch.tensor([False, False]), torch.tensor([True, True])
    assert net(image, time, label, free).equal(net(image, time, label.flip(0), free))
    assert not net(image, time, label, given).equal(net(image, time, label.flip(0), given))


@pytest.mark.parametrize("net", [UNet, VAE, GAN])
def test_generation_nets_say_which_sizes_fit(net):
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        net(1, 30, 3)


class Plain(nn.Linear):
    def __init__(self):
        super().__init__(12, 4)

    def forward(self, image):
        return super().forward(image.flatten(1))


class TestFlip:
    image = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    facts = Facts({"image": Image(3, 32), "label": ClassLabel(list("abcde"))}, {}, "")

    def test_the_answer_is_the_mean_over_both_sides_outside_training(self):
        net = flip.TestTimeFlip(Plain())
        assert net.train()(self.image).equal(net.net(self.image))
        assert net.eval()(self.image).equal((net.net(self.image) + net.net(self.image.flip(-1))) / 2)
        assert not net(self.image).equal(net.net(self.image))

    def test_a_net_that_overwrites_its_answers(self):
        """As a CUDA graph does."""
        plain, memory = Plain(), torch.empty(2, 4)
        expected = (plain(self.image) + plain(self.image.flip(-1))) / 2
        plain.register_forward_hook(lambda module, _, logits: memory.copy_(logits.detach()))
        assert flip.TestTimeFlip(plain).eval()(self.image).equal(expected)

    def test_two_sides_of_two_sides_are_two_sides(self):
        once = flip.TestTimeFlip(Plain()).eval()
        torch.testing.assert_close(flip.TestTimeFlip(once).eval()(self.image), once(self.image))

    def test_its_weights_have_the_names_of_the_nets(self):
        def task(net):
            return nn.ModuleDict({"a": nn.Linear(1, 1), "net": net, "z": nn.Linear(1, 1)})

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.norm = Plain(), nn.BatchNorm1d(4)

            def forward(self, image):
                return self.norm(self.net(image))

        for wrap in (flip.TestTimeFlip, lambda net: flip.TestTimeFlip(flip.TestTimeFlip(net))):
            plain, wrapped = task(Net()), task(wrap(Net()))
            for one, other in ((plain, wrapped), (copy.deepcopy(wrapped), plain), (plain.net, wrapped.net)):
                assert list(one.state_dict()) == list(other.state_dict())
                other.load_state_dict(one.state_dict())
                assert all(value.equal(other.state_dict()[name]) for name, value in one.state_dict().items())
            with pytest.raises(RuntimeError, match="Missing key.*norm.bias"):
                wrapped.load_state_dict({k: v for k, v in plain.state_dict().items() if k != "net.norm.bias"})

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_a_run_starts_from_the_weights_of_the_other_kind(self, wrapped, compose, tmp_path, capsys):
        words = ["experiment=digits", "data.tiny=true", "optimizer=adam", "ema=null"]
        nets = ["net=flip", "net.net.widths=[4,4,8,8]"], ["net=fast_cnn", "net.widths=[4,4,8,8]"]
        before, after = nets if wrapped else nets[::-1]
        _, task = prepare(Run(compose(*words, *before)))
        torch.save({"state_dict": task.state_dict()}, tmp_path / "other.ckpt")
        capsys.readouterr()
        _, again = prepare(Run(compose(*words, *after, f"finetune={tmp_path}/other.ckpt", "seed=5")))
        num = len(task.state_dict())
        assert f"{num} of {num} tensors are loaded" in capsys.readouterr().out
        for one, other in zip(task.parameters(), again.parameters(), strict=True):
            assert one.equal(other)

    @pytest.mark.parametrize("inner", ["mlp", "cnn", "resnet", "fast_cnn"])
    def test_another_net_is_wrapped_or_the_wrapper_left_out(self, inner, compose):
        words = ["experiment=fashion_mnist", "data.tiny=true"]
        wrapped, plain = compose(*words, f"net@net.net={inner}").net, compose(*words, f"net={inner}").net
        assert wrapped == {"_target_": "lab.nets.flip.TestTimeFlip", "net": plain}
        assert type(instantiate(wrapped, self.facts).net) is type(instantiate(plain, self.facts))

    @pytest.mark.parametrize(
        ("word", "problem"),
        [
            ("net.net.widths=x", "net.net.widths=x: should be a valid"),
            ("net.net.depth=3", "net.net: unknown argument depth"),
            ("net.net._target_=lab.nets.flip.Flip", "net.net._target_=.*Did you mean"),
        ],
    )
    def test_a_wrapped_nets_arguments_are_checked_as_any_nets(self, word, problem, compose):
        cfg = compose("experiment=fashion_mnist_fast", "data.tiny=true", f"++{word}")
        with pytest.raises(UserError, match=problem):
            check.check(cfg)

    def test_a_wrapped_net_is_given_no_fact_by_hand(self, compose):
        cfg = compose("experiment=fashion_mnist_fast", "data.tiny=true", "+net.net.num_channels=2")
        with pytest.raises(UserError, match=r"net.net.num_channels: the data states it \(3\); leave it out"):
            instantiate(cfg.net, self.facts)


def test_flattened_sizes_are_the_seeds():
    assert CNN(num_channels=1, image_size=32, num_classes=10, pool=True).num_features == 64 * 6 * 6
    assert CNN(num_channels=1, image_size=10, num_classes=10, pool=False).num_features == 64 * 6 * 6
    assert CNN(num_channels=1, image_size=28, num_classes=10, pool=True).num_features == 64 * 5 * 5


@pytest.mark.parametrize(("pool", "smallest"), [(True, 10), (False, 5)])
def test_cnn_says_how_small_an_image_may_be(pool, smallest):
    CNN(num_channels=1, image_size=smallest, num_classes=2, pool=pool)(torch.zeros(1, 1, smallest, smallest))
    with pytest.raises(ValueError, match=f"images of {smallest} pixels or more, got {smallest - 1}"):
        CNN(num_channels=1, image_size=smallest - 1, num_classes=2, pool=pool)


def test_cnn_is_the_seeds():
    net = CNN(num_channels=1, image_size=32, num_classes=10)
    assert [type(layer).__name__ for layer in net.layers] == (
        ["Conv2d", "ReLU", "MaxPool2d", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    )
    assert sum(p.numel() for p in net.parameters()) == 320 + 18496 + 64 * 36 * 128 + 128 + 1290


class TestAirbench:
    def test_its_first_layer_whitens_patches(self, compose):
        words = ("experiment=digits", "data=cifar10", "net=airbench", "net.widths=[8,8,8]", "data.tiny=true")
        data, task = prepare(Run(compose(*words, "data.augment={flip: true, crop: 2}")))
        split = data.splits["train"]
        image = data.on_after_batch_transfer(split.__getitems__(range(len(split))))["image"]
        with torch.no_grad():
            out = F.conv2d(image, task.net.whiten[0].weight).transpose(0, 1).flatten(1)
        assert out[12:].equal(-out[:12])
        torch.testing.assert_close(out[:12] @ out[:12].T / out.shape[1], torch.eye(12), atol=0.05, rtol=0)

    @pytest.mark.parametrize(
        ("num_images", "seen"), [(3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, range(7)), (1000, range(7))]
    )
    def test_the_covariance_is_that_of_images_at_equal_distances(self, num_images, seen):
        image = torch.rand(7, 2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        patches = F.unfold(image[list(seen)], 2).transpose(0, 1).flatten(1)
        expected = patches @ patches.T / (len(seen) * 4 * 5)
        torch.testing.assert_close(patch_covariance(Rows(image=image), num_images), expected)

    def test_the_images_are_taken_in_several_parts(self):
        image = torch.rand(230, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        patches = F.unfold(image, 2).transpose(0, 1).flatten(1)
        torch.testing.assert_close(patch_covariance(Rows(image=image)), patches @ patches.T / (230 * 4))

    def test_its_convolutions_start_as_the_identity(self):
        image = torch.rand(2, 3, 8, 8)
        out = identity_convolution(3, 5)(image)
        torch.testing.assert_close(out[:, :3], image)
        assert not out[:, 3:].isclose(image[:, :1]).all()

    def test_what_is_frozen(self):
        net = Airbench(3, 32, 10, widths=[8, 8, 8])
        frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        norms = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
        assert frozen == norms | {"whiten.0.weight"}
        assert all("norm" in name for name in norms), "the optimizer knows them by it"

    def test_too_small(self):
        with pytest.raises(ValueError, match="9 pixels or more, got 8"):
            Airbench(3, 8, 10)


@pytest.mark.parametrize(("net", "smallest"), [(FastCNN, 5), (ResNet9, 7)])
def test_fast_nets_say_how_small_an_image_may_be(net, smallest):
    assert net(1, smallest, 2)(torch.zeros(2, 1, smallest, smallest)).shape == (2, 2)
    with pytest.raises(ValueError, match=f"images of {smallest} pixels or more, got {smallest - 1}"):
        net(1, smallest - 1, 2)


@pytest.mark.parametrize("block", [Residual(4), Block(4, 4, stride=1)])
def test_a_residual_block_adds_to_its_input(block):
    for p in block.residual.parameters():
        nn.init.zeros_(p)
    image = torch.rand(2, 4, 6, 6)
    assert block.eval()(image).equal(image)


def test_resnet_keeps_small_images_large():
    net = ResNet(num_channels=1, num_classes=10, widths=(8, 16, 32), num_blocks=2)
    assert net.blocks(net.stem(torch.zeros(1, 1, 28, 28))).shape == (1, 32, 7, 7)


def test_a_grey_first_convolution_answers_as_the_colour_one(monkeypatch):
    torch.manual_seed(0)
    colour = models.resnet18()
    monkeypatch.setattr(models, "get_model", lambda *args, **kwargs: copy.deepcopy(colour))
    net = TorchvisionNet(num_channels=1, image_size=32, num_classes=1000, name="resnet18").eval()
    net.model.fc.load_state_dict(colour.fc.state_dict())
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(grey), colour.eval()(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_unknown_torchvision_model():
    with pytest.raises(ValueError, match=r"no classification model 'resnet19'; it has .*resnet18"):
        TorchvisionNet(num_channels=3, image_size=32, num_classes=2, name="resnet19")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet18"])
def test_pretrained_weights_are_kept(name, monkeypatch):
    torch.manual_seed(0)
    options = {"init_weights": False} if name != "resnet18" else {}
    weights = models.get_model(name, **options).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: weights)
    net = TorchvisionNet(num_channels=1, image_size=96, num_classes=3, name=name, weights="DEFAULT")
    kept = [key for key, value in net.model.state_dict().items() if key in weights and value.equal(weights[key])]
    assert len(kept) > 0.5 * len(net.model.state_dict())
    assert net(torch.randn(2, 1, 96, 96)).shape == (2, 3)
