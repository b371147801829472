"""Augmentation of images: each operation, and its random numbers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from lab.data.augment import Augment, _affine_grid, uniform_of_epoch


class TestAugment:
    @staticmethod
    def augmented(augment, image, numbers, monkeypatch):
        monkeypatch.setattr("lab.data.augment.uniform_of_epoch", lambda *_: numbers.expand(len(image), 9))
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

    @pytest.mark.parametrize(("height", "width"), [(5, 8), (1, 7), (32, 32)])
    def test_the_grid_of_an_affine_map_is_that_of_torch(self, height, width):
        theta = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
        expected = F.affine_grid(theta, [3, 1, height, width], align_corners=False)
        torch.testing.assert_close(_affine_grid(theta, height, width), expected)

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
        u = torch.cat(
            [uniform_of_epoch(seed, epoch, torch.arange(500), 9) for seed in range(4) for epoch in range(5)]
        ).double()
        assert 0 <= u.min() < u.max() < 1
        torch.testing.assert_close(u.mean(0), torch.full((9,), 0.5).double(), atol=0.02, rtol=0)
        torch.testing.assert_close(u.T.cov(), torch.eye(9).double() / 12, atol=4e-3, rtol=0)
        assert u.unique().numel() > 0.99 * u.numel()
