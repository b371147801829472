"""Samples are divided into shards, splits, groups and folds."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from lab.data.folds import group_folds, stratified_folds, stratified_group_folds
from lab.data.samplers import shard
from lab.data.split import fold_split, grouped_split, stratified_split
from lab.engine.errors import UserError


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


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_those_of_scikit_learn(seed):
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    random = np.random.default_rng(seed)
    num_folds = 2 + 3 * seed
    label = random.choice(5, 150, p=[0.4, 0.3, 0.2, 0.06, 0.04])
    group = [f"group {number}" for number in random.integers(0, 60, 150)]
    folds = {
        StratifiedKFold: stratified_folds(label, num_folds, seed),
        GroupKFold: group_folds(group, num_folds, seed),
        StratifiedGroupKFold: stratified_group_folds(label, group, num_folds, seed),
    }
    for kind, fold in folds.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with fewer samples than folds
            splits = kind(num_folds, shuffle=True, random_state=seed).split(label, label, group)
            assert [np.flatnonzero(fold == i).tolist() for i in range(num_folds)] == [list(part) for _, part in splits]


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
