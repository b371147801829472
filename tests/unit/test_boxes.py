"""Object detection, piece by piece: geometry, augmentation, scenes, assignment, suppression, average precision."""

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from lab.data.box_augment import BoxAugment
from lab.data.boxes import padded_boxes
from lab.data.digit_scenes import RANGES, Difficulty, Scenes, draw_scene
from lab.features.boxes import Boxes, Detections
from lab.features.letterbox import Letterbox
from lab.features.read_image import fitted
from lab.figures.detection import KINDS, errors
from lab.metrics.detection import MeanAveragePrecision, average_precision
from lab.nets.assignment import assign, losses
from lab.nets.detector import centres
from lab.tasks.detection import to_original
from lab.tasks.suppression import suppress
from lab.testing import FeatureContract

HOW = Difficulty()


def test_boxes_come_back_from_the_letterbox_to_a_millionth_of_a_pixel():
    random = np.random.default_rng(0)
    size = random.integers(1, 3000, (20_000, 2))
    low = random.uniform(0, 0.9, (20_000, 2)) * size
    box = np.concatenate([low, low + random.uniform(0, 1, (20_000, 2)) * (size - low)], 1)
    ratio = np.tile([fitted(*pair, 320) for pair in size.tolist()] / size, 2)
    again = to_original(torch.from_numpy(box * ratio)[:, None], torch.from_numpy(size), 320)[:, 0]
    assert np.abs(again.numpy() - box).max() < 1e-6


class TestScenes:
    def test_a_scene_depends_on_split_seed_and_index_alone(self):
        batch = Scenes("val", 3, range(9), HOW).__getitems__([5, 2])
        again = draw_scene("val", 3, 2, HOW)
        assert (batch["image"][1].numpy() == again.image.transpose(2, 0, 1)).all()
        assert (batch["boxes"][1, : len(again.boxes)].numpy() == again.boxes).all()
        assert (draw_scene("val", 4, 2, HOW).image != again.image).any()
        assert (draw_scene("test", 3, 2, HOW).image != again.image).any()

    def test_no_digit_is_in_two_splits(self):
        every = [i for first, last in RANGES.values() for i in range(first, last)]
        assert sorted(every) == list(range(1797))

    def test_a_box_is_the_extent_of_the_ink(self):
        how = Difficulty(max_digits=1, clutter=0, grain=0, contrast=120)
        for scene in (draw_scene("train", 0, i, how) for i in range(40)):
            if not len(scene.boxes) or len(np.unique(scene.image[0, 0])) == 0:
                continue
            ground = scene.image[0, 0].astype(int)
            if (scene.image[0] != scene.image[0, 0]).any() or (scene.image[:, 0] != scene.image[0, 0]).any():
                continue  # a ground of several colours, or a digit at the edge
            ink = np.abs(scene.image.astype(int) - ground).max(2)
            rows, columns = np.nonzero(ink > ink.max() / 2)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(scene.boxes[0], edges, atol=1)

    def test_digits_and_their_number_are_balanced(self):
        label = np.concatenate([draw_scene("test", 0, i, HOW).label for i in range(300)])
        share = np.bincount(label, minlength=10) / len(label)
        assert abs(share - 0.1).max() < 0.03
        assert 3.7 < len(label) / 300 < 4.6


def test_boxes_move_with_the_pixels():
    """The levels of a picture are its coordinates: at the edges of a moved box they are those of the original edges."""
    centre = torch.arange(128) + 0.5
    image = torch.stack([centre.expand(128, 128), centre[:, None].expand(128, 128), torch.zeros(128, 128)])
    batch = {
        "image": image.expand(64, 3, 128, 128), "boxes": torch.tensor([[[40.0, 50, 72, 90]]]).expand(64, 1, 4),
        "box_label": torch.zeros(64, 1).long(), "box_crowd": torch.zeros(64, 1).long(), "index": torch.arange(64),
    }  # fmt: skip
    augment = BoxAugment(flip=True, scale=0.3, shift=0.1, keep=0.0)
    made, other = augment(batch, 0, 1), augment(batch, 0, 2)
    some = augment({name: rows[[7, 3]] for name, rows in batch.items()}, 0, 1)
    torch.testing.assert_close(some["image"], made["image"][[7, 3]])
    assert some["boxes"].equal(made["boxes"][[7, 3]])
    assert not other["boxes"].equal(made["boxes"])
    boxes, level = made["boxes"][:, 0], made["image"][:, :2, 64, 64]
    slope = torch.stack([made["image"][:, 0, 64, 65], made["image"][:, 1, 65, 64]], 1) - level
    corners = (boxes.view(-1, 2, 2) - 64.5) * slope[:, None] + level[:, None]  # the coordinates in the original
    assert (slope[:, 0] < 0).float().mean() == pytest.approx(0.5, abs=0.2), "half of the pictures are mirrored"
    expected = torch.tensor([[40.0, 50.0], [72.0, 90.0]]).expand(64, 2, 2)
    torch.testing.assert_close(corners.sort(1).values, expected, atol=2e-3, rtol=0)


def test_colours_change_no_box():
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    boxes = torch.tensor([[[2.0, 3, 9, 9]]]).expand(4, 1, 4)
    batch = {"image": image, "boxes": boxes, "index": torch.arange(4)}
    made = BoxAugment(colour=0.3)(batch, 0, 0)
    assert made["boxes"] is boxes
    assert 0 <= made["image"].min() < made["image"].max() <= 255
    assert ((made["image"] - image).abs().mean((1, 2, 3)) > 1).all()


def test_a_box_of_which_little_is_left_is_dropped():
    batch = {
        "image": torch.full((1, 3, 64, 64), 114.0), "boxes": torch.tensor([[[0.0, 0, 8, 8], [30, 30, 40, 40]]]),
        "box_label": torch.tensor([[0, 1]]), "box_crowd": torch.zeros(1, 2).long(), "index": torch.tensor([0]),
    }  # fmt: skip
    augment = BoxAugment(shift=0.5)
    found = [augment(batch, 0, epoch) for epoch in range(12)]
    assert {each["box_label"][0, 0].item() for each in found} == {0, -1}
    for each in found:
        gone = each["box_label"] < 0
        assert not each["boxes"][gone].any()


class TestAssignment:
    centre = centres(torch.zeros(1, 3, 64, 64), (8,))

    def candidates(self, truth):
        random = torch.Generator().manual_seed(0)
        sides = torch.rand(len(truth), 64, 4, generator=random) * 20
        boxes = torch.cat([self.centre[:, :2] - sides[..., :2], self.centre[:, :2] + sides[..., 2:]], -1)
        return boxes, torch.randn(len(truth), 64, 3, generator=random)

    def test_the_order_of_objects_changes_nothing(self):
        truth = torch.tensor([[[4.0, 4, 30, 30], [20, 20, 60, 50], [0, 0, 0, 0]]])
        label, order = torch.tensor([[0, 2, -1]]), [2, 1, 0]
        boxes, logits = self.candidates(truth)
        one = losses(boxes, logits, self.centre, truth, label)
        other = losses(boxes, logits, self.centre, truth[:, order], label[:, order])
        for name in one:
            torch.testing.assert_close(one[name], other[name])

    def test_an_object_smaller_than_a_cell_has_one(self):
        truth, label = torch.tensor([[[9.0, 9, 11, 11]]]), torch.tensor([[1]])
        boxes, logits = self.candidates(truth)
        boxes[0, 9] = truth[0, 0]
        _, weight = assign(boxes, logits.sigmoid(), self.centre, truth, label)
        assert weight.nonzero().tolist() == [[0, 9]]
        assert weight[0, 9] == pytest.approx(1, abs=1e-4)

    def test_pictures_without_objects_have_a_finite_loss(self):
        truth, label = torch.zeros(2, 3, 4), torch.full((2, 3), -1)
        boxes, logits = (each.requires_grad_() for each in self.candidates(truth))
        parts = losses(boxes, logits, self.centre, truth, label)
        sum(parts.values()).backward()
        assert parts["class"] > 0
        assert parts["box"] == 0
        assert logits.grad.isfinite().all()
        assert boxes.grad is None or not boxes.grad.any()


def test_suppression_is_that_of_torchvision():
    random = torch.Generator().manual_seed(0)
    low = torch.rand(20, 200, 2, generator=random) * 40
    boxes = torch.cat([low, low + 5 + torch.rand(20, 200, 2, generator=random) * 20], -1)
    kind = torch.randint(3, (20, 200), generator=random)
    score = torch.linspace(1, 0.1, 200)
    kept = suppress(boxes, kind, 0.5)
    for i in range(20):
        assert kept[i].nonzero()[:, 0].tolist() == sorted(batched_nms(boxes[i], score, kind[i], 0.5).tolist())


class TestAveragePrecision:
    true = np.array([[[0, 0, 10, 10, 0, 0], [20, 20, 40, 40, 0, 1.0]], [[5, 5, 25, 25, 0, 0], [0, 0, 0, 0, 0, -1]]])

    def found(self, *shift):
        boxes = np.concatenate([self.true[..., :4] + np.array(shift), np.full((2, 2, 1), 0.9), self.true[..., 5:]], 2)
        return boxes

    def test_perfect_boxes(self):
        values = average_precision(self.found(0, 0, 0, 0), self.true, ["a", "b"])
        assert values["map"] == pytest.approx(1)
        assert values["ap/b"] == pytest.approx(1)
        assert values["map_75"] == pytest.approx(1)

    def test_by_hand(self):
        """A false box has a higher score than the one right box of two objects: precision 1/2 up to recall 1/2."""
        found = np.array([[[0, 0, 10, 10, 0.5, 0], [60, 60, 70, 70, 0.9, 0]], [[0, 0, 0, 0, 0, -1]] * 2])
        assert average_precision(found, self.true, ["a"], is_short=True)["map_50"] == pytest.approx(51 / 101 / 2)

    def test_a_box_in_a_crowd_is_not_false(self):
        true = np.concatenate([self.true, np.zeros((2, 1, 6))], 1)
        true[:, 2] = [[50, 50, 100, 100, 1, 0], [0, 0, 0, 0, 0, -1]]
        found = np.concatenate([self.found(0, 0, 0, 0), np.zeros((2, 1, 6))], 1)
        found[:, 2] = [[60, 60, 80, 80, 0.95, 0], [0, 0, 0, 0, 0, -1]]
        assert average_precision(found, true, ["a", "b"])["map"] == pytest.approx(1)

    def test_the_order_and_the_size_of_batches_change_nothing(self):
        random = np.random.default_rng(0)
        arrays = {"found_boxes": random.uniform(0, 50, (30, 7, 4)), "score": random.integers(0, 4, (30, 7)) / 4}
        arrays["found_boxes"][..., 2:] += arrays["found_boxes"][..., :2]
        arrays |= {"found_label": random.integers(-1, 2, (30, 7)), "index": np.arange(30)}
        arrays |= {"true_boxes": arrays["found_boxes"][:, :3] + 2, "true_label": random.integers(-1, 2, (30, 3))}
        arrays["true_crowd"] = np.zeros((30, 3), int)
        values = []
        for order in (np.arange(30), random.permutation(30)):
            metric = MeanAveragePrecision(["a", "b"])
            for part in np.array_split(order, 4):
                metric.update(**{name: torch.from_numpy(rows[part]) for name, rows in arrays.items()})
            values.append({name: value.item() for name, value in metric.compute().items()})
        assert values[0] == values[1]
        assert 0 < values[0]["map"] < 1


def test_each_kind_of_error_is_counted_once():
    """Right, wrong class, badly placed, twice, background; the second object is missed."""
    true = np.array([[[0, 0, 20, 20], [40, 40, 60, 60], [0, 60, 20, 80], [60, 0, 80, 20.0]]])
    found = np.array([[[0, 0, 20, 20], [0, 60, 20, 80], [68, 4, 88, 24], [1, 1, 20, 20], [90, 90, 99, 99.0]]])
    arrays = {
        "true_boxes": true, "true_label": np.array([[0, 0, 0, 1]]), "true_crowd": np.zeros((1, 4), int),
        "found_boxes": found, "found_label": np.array([[0, 1, 1, 0, 0]]), "score": np.full((1, 5), 0.9),
    }  # fmt: skip
    kinds, confused = errors(arrays, 2, 0.5)
    assert dict(zip(KINDS, kinds[0].tolist(), strict=True)) == {
        "class": 1, "place": 1, "both": 0, "twice": 1, "background": 1, "missed": 1,
    }  # fmt: skip
    assert confused[0, 1] == 1  # wrong class
    assert confused[0, 2] == 1  # missed


def png(width, height):
    import io

    from PIL import Image

    with io.BytesIO() as file:
        Image.new("RGB", (width, height), (9, 9, 9)).save(file, "PNG")
        return file.getvalue()


class TestLetterbox(FeatureContract):
    feature = Letterbox(3, 32, [0.5] * 3, [0.2] * 3)
    contents = (png(20, 40), png(64, 8))

    def test_the_picture_is_at_the_upper_left(self):
        sample = self.feature.decode(png(20, 40), np.inf)
        assert sample["original"].tolist() == [20, 40]
        assert (sample["image"][:, :, :16] == 9).all()
        assert (sample["image"][:, :, 16:] == 114).all()


BOX = np.array([[1, 2, 30, 40], [0, 0, 0, 0]], np.float32)


class TestBoxes(FeatureContract):
    feature = Boxes(["cat", "dog"], 2)


class TestDetections(FeatureContract):
    feature = Detections(["cat", "dog"], 0.5)
    samples = (
        {"found_boxes": BOX, "score": np.array([0.9, 0], np.float32), "found_label": np.array([1, -1])},
        {"found_boxes": BOX, "score": np.array([0.1, 0], np.float32), "found_label": np.array([0, -1])},
    )
    inputs = ({"image": np.zeros((3, 32, 32), np.uint8), "original": np.array([40, 50])},) * 2

    def test_a_row_for_each_box(self):
        expected = {"class": "dog", "score": 0.9, "x1": 1.0, "y1": 2.0, "x2": 30.0, "y2": 40.0}
        assert self.feature.rows("picture", self.samples[0], self.inputs[0], 1) == [expected]
        assert self.feature.rows("picture", self.samples[1], self.inputs[1], 1) == []

    @pytest.mark.parametrize(
        ("entry", "change", "differs"),
        [("score", 5e-5, False), ("score", 1e-3, True), ("found_boxes", 0.05, False), ("found_boxes", 1.0, True)],
    )
    def test_a_box_has_its_counterpart(self, entry, change, differs):
        one = {name: value[None] for name, value in self.samples[0].items()}
        other = one | {
            entry: one[entry]
            + np.float32(change) * (one["found_label"] >= 0).reshape(1, 2, *[1] * (one[entry].ndim - 2))
        }
        assert self.feature.differs(one, other).tolist() == [differs]


def test_padded_boxes():
    boxes, label = padded_boxes([BOX[:1], BOX[:0]], [np.array([1]), np.array([], int)], 2)
    assert boxes.tolist() == [BOX.tolist(), np.zeros((2, 4)).tolist()]
    assert label.tolist() == [[1, -1], [-1, -1]]
