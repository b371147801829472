"""Attributions that are known in closed form, scores by hand, and overlays: no run is trained."""

import numpy as np
import pytest
import torch
from torch import nn

from lab.nets import flip
from lab.verbs.explain import images, scores
from lab.verbs.explain import main as explain
from lab.verbs.explain.overlay import Example, figure, overlay


@pytest.fixture
def image():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def linear():
    """Logits w·x + b: the attribution of a pixel is w·x, summed over the channels."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 5)).eval()


TARGET = torch.tensor([3, 0, 4])


def of_linear(linear, image):
    return (linear[1].weight[TARGET].view_as(image) * image).sum(1).detach()


def test_integrated_gradients_of_a_linear_net_are_weight_times_input(linear, image):
    found = images.integrated_gradients(linear, image, TARGET)
    torch.testing.assert_close(found, of_linear(linear, image), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_sum_to_what_the_image_changes(image):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 5))
    change = (net(image) - net(torch.zeros_like(image))).gather(1, TARGET[:, None])[:, 0]
    found = images.integrated_gradients(net, image, TARGET).sum((1, 2))
    torch.testing.assert_close(found, change, rtol=1e-3, atol=1e-4)


def test_occlusion_of_a_linear_net_is_weight_times_input_of_the_window(linear, image):
    """Eight pixels have a window of one; sixteen have one of two, which moves by one."""
    torch.testing.assert_close(images.occlusion(linear, image, TARGET), of_linear(linear, image))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 5))
    large = torch.randn(1, 1, 16, 16)
    pixel = (wide[1].weight[2].view(16, 16) * large[0, 0]).detach()
    windows = nn.functional.avg_pool2d(pixel[None], 2, 1)[0] * 4
    found = images.occlusion(wide, large, torch.tensor([2]))
    assert found[0, 0, 0].item() == pytest.approx(windows[0, 0].item(), abs=1e-5)
    assert found[0, 5, 7].item() == pytest.approx(windows[4:6, 6:8].mean().item(), abs=1e-5)


def test_gradcam_is_the_feature_map_weighted_by_mean_gradients():
    """Channel 0 copies the image, channel 1 negates it; pooled, their weights for class 1 are 2 and -3."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    net[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    net[4].weight.data = torch.tensor([[0.0, 0.0], [2.0, -3.0]])
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (2 * image.relu() - 3 * (-image).relu()).relu()[:, 0] / 64
    torch.testing.assert_close(images.gradcam(net, image, torch.tensor([1, 1])), expected)
    assert images.feature_map(net, image) is net[1], "after the activation"


def test_gradcam_says_that_there_is_no_feature_map(linear, image):
    with pytest.raises(ValueError, match="no convolution"):
        images.gradcam(linear, image, TARGET)


def test_a_method_that_ignores_the_weights_fails_the_sanity_check_and_one_that_does_not_passes(linear, image):
    def edges(net, image, target):
        return image.diff(dim=-1, prepend=image[..., :1]).sum(1)

    samples = list(zip(image.split(1), TARGET.split(1), strict=True))
    own = scores.attribute(edges, linear, samples)
    assert scores.sanity(edges, linear, samples, own, seed=0) == {
        "signed": pytest.approx(1),
        "absolute": pytest.approx(1),
    }
    method = images.integrated_gradients
    own = scores.attribute(method, linear, samples)
    assert abs(scores.sanity(method, linear, samples, own, seed=0)["signed"]) < 0.3


def test_warnings_name_the_methods_that_are_not_to_be_trusted():
    good = {"signed": 0.1, "absolute": 0.3, "deletion": 0.2, "insertion": 0.8}
    methods = {"good": good, "edges": good | {"absolute": 0.9}, "noise": good | {"deletion": 0.6, "insertion": 0.4}}
    said = explain.score_table({"methods": methods | {"random": {"deletion": 0.5, "insertion": 0.5}}})
    assert [line.split()[1] for line in said.splitlines() if line.startswith("warning")] == ["edges", "noise"]


def test_shuffled_weights_are_the_same_numbers_elsewhere(linear):
    before = linear[1].weight.clone()
    other = scores.shuffled(linear, torch.Generator().manual_seed(0))[1].weight
    assert linear[1].weight.equal(before)
    assert not other.equal(before)
    assert other.flatten().sort().values.equal(before.flatten().sort().values)


def test_deletion_and_insertion_by_hand(linear, image):
    """A score that counts two pixels, worth 3 and 1, of a picture of 4: each step takes a fifth of a pixel."""
    score = lambda x: torch.stack([3 * x[:, 0, 0, 0] + x[:, 0, 1, 1]], 1)  # noqa: E731
    picture, values = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 1.0], [2.0, 3.0]]])
    deletion, insertion = scores.deletion_insertion(score, (picture, torch.tensor([0])), values, 0)
    # of 20 steps the first alone scores 4, the next five 1, the others 0
    assert deletion == pytest.approx((4 / 2 + 5 * 1) / 20)
    assert insertion == pytest.approx((0 / 2 + 5 * 3 + 13 * 4 + 4 + 4 / 2) / 20)


def test_the_right_ranking_beats_a_random_and_a_reversed_one(linear, image):
    right = of_linear(linear, image)
    for i in range(3):
        sample, rankings = (image[[i]], TARGET[[i]]), (right[[i]], torch.rand(1, 8, 8), -right[[i]])
        deletion, insertion = zip(*(scores.deletion_insertion(linear, sample, v, 0) for v in rankings), strict=True)
        assert deletion[0] < deletion[1] < deletion[2]
        assert insertion[0] > insertion[1] > insertion[2]


def test_a_mirrored_answer_is_explained_by_both_of_its_halves(linear, image):
    class Plain(nn.Module):
        def forward(self, image):
            return linear(image)

    plain, both = Plain(), flip.TestTimeFlip(Plain()).eval()
    for method in (images.METHODS["integrated_gradients"], images.METHODS["occlusion"]):
        sides = [method(plain, side, TARGET) for side in (image, image.flip(-1))]
        assert method(both, image, TARGET).equal((sides[0] + sides[1].flip(-1)) / 2)
    whole = images.integrated_gradients(both, image, TARGET)
    torch.testing.assert_close(images.METHODS["integrated_gradients"](both, image, TARGET), whole, rtol=1e-4, atol=1e-5)


def test_an_overlay_is_red_for_blue_against_and_grey_where_nothing_is():
    values = torch.zeros(20, 20)
    values[0, :10], values[1, :10] = 2.0, -2.0
    drawn = overlay(torch.full((3, 20, 20), 255, dtype=torch.uint8), values)
    assert drawn[0, 0, 0] > drawn[0, 0, 2] + 0.4
    assert drawn[1, 0, 2] > drawn[1, 0, 0] + 0.4
    assert np.allclose(drawn[5], 1)


@pytest.mark.parametrize("num", [1, 20])
def test_nothing_is_drawn_over_anything_else_or_cut_off(num):
    rows = [
        Example(torch.zeros(1, 8, 8), [torch.zeros(8, 8)] * 3, "a class of $many$ words", "100.0 %\nbut is another one")
    ]
    title = f"The {num} surest of 123 mistakes in 10000 im{'a' * 99}ges"
    drawn = figure(title, ["a\nb", "c", "d"], rows * num)
    drawn.draw_without_rendering()
    boxes = [part.get_window_extent().padded(-1) for part in (*drawn.texts, *drawn.axes)]
    assert all(drawn.bbox.containsx(x) and drawn.bbox.containsy(y) for box in boxes for x, y in box.corners())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
