"""The memory format of the images inside a net."""

import pytest
import torch
from torch import nn

from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.nets.cnn import CNN
from lab.nets.resnet import ResNet
from lab.tasks.memory_format import set_memory_format

FEATURES = {"image": Image(3, 8, (0.5,) * 3, (0.5,) * 3), "label": ClassLabel(("a", "b"))}


class Net(nn.Module):
    """Two channels of 8×8 pixels, flattened by a method of a tensor."""

    def __init__(self, method):
        super().__init__()
        self.convolution, self.norm, self.method = nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2), method

    def forward(self, image):
        x = nn.functional.dropout(self.norm(self.convolution(image)), training=self.training)
        return getattr(x, self.method)(len(x), 128)


def is_channels_last(net):
    return net.convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("chosen", "accelerator", "method", "expected"),
    [
        ("auto", "cpu", "reshape", True),
        ("auto", "cpu", "view", False),
        ("auto", "gpu", "reshape", False),
        (True, "gpu", "view", True),
        (False, "cpu", "reshape", False),
    ],
)
def test_auto_is_channels_last_on_a_cpu_if_the_net_works_with_it(chosen, accelerator, method, expected):
    net = Net(method)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    set_memory_format(net, chosen, accelerator, FEATURES)
    assert is_channels_last(net) == expected
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert torch.get_rng_state().equal(state)


def test_auto_leaves_a_net_alone_that_takes_other_entries():
    net = Net("reshape")
    set_memory_format(net, "auto", "cpu", {"label": FEATURES["label"]})
    assert not is_channels_last(net)


def test_auto_does_not_evaluate_a_net_without_convolutions(monkeypatch):
    net = nn.Linear(2, 2)
    monkeypatch.setattr(net, "forward", None)
    set_memory_format(net, "auto", "cpu", FEATURES)


@pytest.mark.parametrize("make", [lambda: CNN(3, 12, 4), lambda: ResNet(3, 4, (4, 8))], ids=["cnn", "resnet"])
def test_training_in_both_formats_differs_by_rounding_alone(make):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 4, 3, 12, 12, dtype=torch.double, generator=generator)
    outputs = []
    for channels_last in (False, True):
        torch.manual_seed(1)
        net = make().double()
        set_memory_format(net, channels_last, "cpu", FEATURES)
        optimizer = torch.optim.Adam(net.parameters(), 0.01, fused=True)
        for image in images:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(image), torch.arange(4)).backward()
            optimizer.step()
        outputs.append(net.eval()(images[0]))
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=0)
