"""Folds of samples, as scikit-learn 1.9 draws them with `shuffle=True`; to import it would take as long as torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def stratified_folds(label: Numbers, num_folds: int, seed: int) -> Numbers:
    """Return the fold of each sample, (N,). Each fold has the same share of every class, and the same size ± 1.

    The folds are those of scikit-learn's `StratifiedKFold`.

    Args:
        label: (N,) class of each sample.
        num_folds: at most the number of samples of the largest class.
        seed: the same seed gives the same folds.
    """
    random = np.random.RandomState(seed)
    fold = np.empty_like(label)
    values, first = np.unique(label, return_index=True)
    start = 0
    for value in values[first.argsort()]:  # in order of appearance: the names of the classes have no effect
        is_member = label == value
        share = np.sort(np.arange(start, start + is_member.sum()) % num_folds)
        random.shuffle(share)
        fold[is_member] = share
        start += len(share)
    return fold


def group_folds(group: Sequence[str], num_folds: int, seed: int) -> Numbers:
    """Return the fold of each sample, (N,). Each fold has the same number of groups ± 1.

    The folds are those of scikit-learn's `GroupKFold`.

    Args:
        group: the group of each sample.
        num_folds: at most the number of groups.
        seed: the same seed gives the same folds.
    """
    number = numbered(group)
    order = np.random.RandomState(seed).permutation(number.max() + 1)
    fold = np.empty_like(order)
    for i, part in enumerate(np.array_split(order, num_folds)):
        fold[part] = i
    return fold[number]


def stratified_group_folds(label: Numbers, group: Sequence[str], num_folds: int, seed: int) -> Numbers:
    """Return the fold of each sample, (N,). No group is in two folds, and the shares of the classes are similar.

    The group with the most uneven classes comes first. Each group goes to the fold with which the shares of every class
    differ least between folds; of equal folds, to the smallest. The folds are those of scikit-learn's
    `StratifiedGroupKFold`.

    Args:
        label: (N,) class of each sample.
        group: the group of each sample.
        num_folds: at most the number of groups, and of samples of the largest class.
        seed: the same seed gives the same folds.
    """
    number, (values, label) = numbered(group), np.unique(label, return_inverse=True)
    order = np.random.RandomState(seed).permutation(number.max() + 1)
    count = np.zeros((len(order), len(values)))  # samples of each class in each group
    np.add.at(count, (number, label), 1)
    order = order[np.argsort(-count[order].std(1), kind="stable")]
    total, in_fold = count.sum(0), np.zeros((num_folds, len(values)))
    fold, diagonal = np.empty_like(order), np.arange(num_folds)
    for one in order:
        proposed = np.tile(in_fold, (num_folds, 1, 1))  # the group in each of the folds: (fold, fold, class)
        proposed[diagonal, diagonal] += count[one]
        fold[one] = best = _best((proposed / total).std(1).mean(1).tolist(), in_fold.sum(1).tolist())
        in_fold[best] += count[one]
    return fold[number]


def _best(uneven: Sequence[float], size: Sequence[float]) -> int:
    """The fold with the least unevenness; of almost equal ones, the smallest. The first fold wins a draw."""
    best = 0
    for i in range(1, len(uneven)):
        is_equal = abs(uneven[i] - uneven[best]) <= 1e-8 + 1e-5 * abs(uneven[best])  # as `numpy.isclose`
        if uneven[i] < uneven[best] or (is_equal and size[i] < size[best]):
            best = i
    return best


def numbered(texts: Sequence[str]) -> Numbers:
    """A number for each text, in alphabetical order. In an array, each would take the memory of the longest."""
    number = {text: i for i, text in enumerate(sorted(set(texts)))}
    return np.array([number[text] for text in texts])
