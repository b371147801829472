"""Random numbers of samples: the same in any batch, order, process and graph, and as random as they should be."""

import math
from statistics import NormalDist

import pytest
import torch

from lab.data import augment
from lab.engine import draws

KINDS = {"uniform": (draws.uniform, 0.5, 1 / 12), "normal": (draws.normal, 0.0, 1.0)}


@pytest.fixture(params=KINDS)
def kind(request):
    """A function, and the mean and the variance of its numbers."""
    return KINDS[request.param]


def test_a_sample_has_its_numbers_in_any_batch(kind):
    draw, *_ = kind
    index = torch.randperm(1001, generator=torch.Generator().manual_seed(0)) + 10**9
    whole = draw("0 test a", index, 3, 5)
    assert whole.shape == (1001, 3, 5)
    assert whole.dtype == torch.float32
    for size in (1, 7, 64):
        assert torch.cat([draw("0 test a", part, 3, 5) for part in index.split(size)]).equal(whole)
    order = index.argsort()
    assert draw("0 test a", index[order], 3, 5).equal(whole[order])
    for rank in range(3):  # of three processes
        assert draw("0 test a", index[rank::3], 3, 5).equal(whole[rank::3])
    assert draw("0 test a", index, 15).equal(whole.flatten(1))
    assert draw("0 test a", index[:0], 3, 5).shape == (0, 3, 5)
    assert draw("0 test a", index).shape == (1001,)


def test_the_numbers_are_known():
    """A change here changes every score that depends on a draw."""
    index = torch.tensor([0, 1, 7])
    uniform, normal = (draw("0 test a", index, 2).flatten().tolist() for draw in (draws.uniform, draws.normal))
    assert uniform == [0.15890705585479736, 0.8038157224655151, 0.9476425647735596, 0.4938584566116333,
                       0.4493480920791626, 0.23885095119476318]  # fmt: skip
    assert normal == [0.23371769487857819, 0.2812015116214752, 2.153585433959961, 0.47980499267578125,
                      -0.3156803250312805, -0.36997249722480774]  # fmt: skip
    augmentation = augment.uniform_of_epoch(3, 5, index, 1).flatten().tolist()
    assert augmentation == [0.8557351231575012, 0.610576331615448, 0.2692878246307373]


def test_the_numbers_have_their_distribution(kind):
    draw, mean, variance = kind
    num = 200_000
    numbers = draw("0 test a", torch.arange(num), 4).double()
    assert numbers.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / (4 * num)))
    assert numbers.var().item() == pytest.approx(variance, rel=0.01)
    if mean:
        found, expected = numbers.flatten().sort().values, (torch.arange(4 * num) + 0.5) / (4 * num)
    else:
        assert (numbers**4).mean().item() == pytest.approx(3, abs=0.04)
        probability = torch.linspace(0.0001, 0.9999, 101).tolist()
        found = numbers.flatten().quantile(torch.tensor(probability).double())
        expected = torch.tensor([NormalDist().inv_cdf(p) for p in probability])
    assert (found - expected).abs().max() < (0.003 if mean else 0.08)


def test_numbers_of_samples_names_stages_epochs_and_seeds_are_not_correlated(kind):
    draw, *_ = kind
    num = 100_000
    keys = ("0 test a", "0 test b", "0 val a", "1 test a", "0 train 1 a", "0 train 2 a", "0 train 11 a")
    columns = torch.cat([draw(key, torch.arange(num), 2) for key in keys], 1).double()
    columns = torch.cat([columns, columns.roll(1, 0)], 1)  # the next sample's
    correlation = torch.corrcoef(columns.T).fill_diagonal_(0).abs().max().item()
    assert correlation < 6 / math.sqrt(num)
    assert not (columns[:, :1] == columns[:, 1:]).all(0).any()


def test_a_device_has_one_copy_of_the_table_that_training_may_use():
    device = torch.device("meta")
    with torch.inference_mode():
        first = draws.quantiles(device)
    assert not first.is_inference()
    assert draws.quantiles(device) is first
    assert draws.quantiles(torch.device("cpu")) is draws.QUANTILES
