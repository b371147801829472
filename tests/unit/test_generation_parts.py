"""Samplers, and metrics of generated samples, against known answers."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lab.engine import draws
from lab.features.image import Image, tiled
from lab.metrics.generation import (
    GenerationScores,
    References,
    frechet_distance,
    kernel_distance,
    nearest,
    precision_and_recall,
    principal_components,
)
from lab.tasks.samplers import guided, integrate


def normal(num, size, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(num, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestIntegrate:
    @pytest.mark.parametrize("steps", [1, 2, 7])
    @pytest.mark.parametrize("solver", ["euler", "heun"])
    def test_a_constant_velocity_is_exact(self, steps, solver):
        noise = normal(3, 4)
        found = integrate(lambda x, time: torch.full_like(x, 2.5), noise, torch.full((3,), steps), solver)
        torch.testing.assert_close(found, noise + 2.5)

    def test_euler_and_heun_evaluate_as_often_as_stated(self):
        for solver, num in (("euler", 16), ("heun", 7)):
            times = []
            steps = torch.full((1,), {"euler": 16, "heun": 4}[solver])
            integrate(lambda x, time, times=times: times.append(time) or x, torch.zeros(1, 1), steps, solver)
            assert len(times) == num
            assert max(times) < 1, "at time 1 the field knows nothing of the noise"

    def test_heun_is_of_second_order_but_for_its_last_step(self):
        """The solution of x' = x is e, from 1. The last step of Euler adds an error of its length squared."""

        def error(solver, steps):
            x = integrate(lambda x, time: x, torch.ones(1, 1, dtype=torch.float64), torch.tensor([steps]), solver)
            return abs(x.item() - np.e)

        assert error("heun", 16) < error("euler", 16) / 5
        assert error("heun", 16) < error("heun", 8) / 3.5

    def test_samples_with_other_steps_share_a_batch(self):
        noise, steps = normal(4, 3).float(), torch.tensor([1, 5, 3, 5])

        def velocity(x, time):
            return torch.sin(3 * x) + time[:, None]

        for solver in ("euler", "heun"):
            together = integrate(velocity, noise, steps, solver)
            for i in range(4):
                alone = integrate(velocity, noise[i : i + 1], steps[i : i + 1], solver)
                torch.testing.assert_close(together[i : i + 1], alone)

    def test_guidance_moves_away_from_the_velocity_without_conditions(self):
        calls = []

        def velocity(x, time, is_given):
            calls.append(is_given)
            return torch.where(is_given[:, None], 3.0, 1.0).expand_as(x)

        x, time = torch.zeros(2, 1), torch.zeros(2)
        assert guided(velocity, torch.tensor([1.0, 1.0]))(x, time).flatten().tolist() == [3, 3]
        assert len(calls) == 1, "without guidance one evaluation is enough"
        assert guided(velocity, torch.tensor([2.0, 0.0]))(x, time).flatten().tolist() == [5, 1]


class TestMetrics:
    def test_the_frechet_distance_is_that_of_scipy(self):
        a, b = normal(300, 6), normal(200, 6, seed=1, mean=0.5) @ torch.diag(torch.arange(1.0, 7.0).double())
        root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
        assert frechet_distance(a, b).item() == pytest.approx(expected.item(), rel=1e-8)
        assert frechet_distance(a, a).item() == pytest.approx(0, abs=1e-8)

    def test_the_frechet_distance_of_two_known_normal_distributions(self):
        a, b = normal(200_000, 2, std=2.0), normal(200_000, 2, seed=1, mean=3.0)
        assert frechet_distance(a, b).item() == pytest.approx(2 * 3**2 + 2 * (2 - 1) ** 2, rel=0.01)

    def test_the_kernel_distance_is_the_written_out_sum(self):
        a, b = normal(7, 3), normal(5, 3, seed=1, mean=1.0)

        def mean(x, y, same):
            pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
            return sum(((x[i] * y[j]).sum().item() / 3 + 1) ** 3 for i, j in pairs) / len(pairs)

        expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
        assert kernel_distance(a, b).item() == pytest.approx(expected)

    def test_precision_and_recall_of_known_material(self):
        wide, narrow, far = normal(500, 2), normal(500, 2, seed=1, std=0.1), normal(500, 2, seed=2, mean=50.0)
        precision, recall = precision_and_recall(wide, normal(500, 2, seed=3))
        assert precision > 0.9
        assert recall > 0.9
        precision, recall = precision_and_recall(wide, narrow)
        assert precision > 0.98
        assert recall < 0.1
        assert [x.item() for x in precision_and_recall(wide, far)] == [0, 0]

    def test_nearest(self):
        a, b = normal(600, 3), normal(50, 3, seed=1)
        expected = (a[:, None] - b).norm(dim=2).amin(1)
        torch.testing.assert_close(nearest(a, b), expected)

    def test_components_are_those_of_the_largest_variance(self):
        feature = normal(20_000, 100) * torch.linspace(3, 1, 100)
        found = principal_components(feature.float())
        assert found.shape == (100, 64)
        torch.testing.assert_close(found.T @ found, torch.eye(64), atol=1e-5, rtol=0)
        assert (found[:30] ** 2).sum() > 29, "the first coordinates vary most"
        assert principal_components(feature[:, :5].float()).shape == (5, 5)

    def scores(self, parts):
        """The scores of 60 samples that come in these parts."""
        real, generated, label = normal(60, 4), normal(60, 4, seed=1, mean=0.2), torch.arange(60) % 3
        real, generated, metric = real.float(), generated.float(), GenerationScores()
        metric.references = References.of(normal(90, 4, seed=2).float(), torch.zeros(3, 4))
        for rows in parts:
            metric.update(
                index=rows, label=label[rows], is_generated=rows % 2 == 0, real=real[rows], generated=generated[rows],
                real_class=label[rows], generated_class=(label + (torch.arange(60) % 4 == 0))[rows] % 3,
            )  # fmt: skip
        return {name: value.item() for name, value in metric.compute().items()}

    def test_scores_do_not_depend_on_the_batches(self):
        expected = self.scores([torch.arange(60)])
        assert expected["num_generated"] == 30
        assert expected["judged_right"] == 0.5
        assert expected["judged_right_real"] == 1
        assert expected["gap_closed"] == pytest.approx(1 - expected["fd"] / expected["fd_class_mean"])
        shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        for size in (1, 7, 64):
            assert self.scores(shuffled.split(size)) == expected


def test_a_seed_draws_other_numbers_for_each_sample():
    index = torch.arange(50)
    seeds = [draws.joined(torch.full((50,), seed), index) for seed in (0, 1, 2)]
    assert len(torch.cat(seeds).unique()) == 150
    one, other = (draws.normal("", each, 100) for each in seeds[:2])
    assert abs((one * other).mean()) < 0.06


def test_a_sheet_has_every_picture():
    levels = [np.full((3, 4, 1), i, np.uint8) for i in range(5)]
    assert tiled(levels).shape == (2 * 5 + 2, 3 * 6 + 2, 1)
    assert set(np.unique(tiled(levels))) == {0, 1, 2, 3, 4, 255}


def test_an_image_differs_by_more_than_a_quarter_of_a_grey_level():
    image, a = Image(1, 2, entry="picture"), np.zeros((3, 1, 2, 2), np.float32)
    b = a.copy()
    b[0, 0, 0, 0], b[1, 0, 0, 0], b[2, 0, 0, 0] = 0.0009, 0.0011, np.nan
    assert image.differs({"picture": a}, {"picture": b}).tolist() == [False, True, True]
