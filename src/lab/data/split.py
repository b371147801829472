"""Which samples train, validate and test."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from lab.errors import UserError


def split_folders(root: Path) -> dict[str, Path]:
    """The folders that hold a folder for each class: train, val and test, as far as they are there; or `root` alone.

    Raises:
        UserError: there is one of them without train, or beside others.
    """
    folders = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    others = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name not in folders]
    if folders and ("train" not in folders or others):
        raise UserError(
            f"data.root: {root} has {', '.join([*folders, *others])}; expected train, with val and test or without,"
            " and nothing else; or a folder for each class."
        )
    return folders or {"train": root}


def stratified_split(label: Tensor, fractions: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Sample indices of "train" and of each part in `fractions`, drawn class by class.

    Args:
        label: (N,) class of each sample.
        fractions: the share of every class that goes to a part, which gets at least one sample of it.
        seed: the same seed, the same split.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {"train": [], **{part: [] for part in fractions}}
    for value in label.bincount().nonzero().flatten().tolist():
        order = (label == value).nonzero().flatten()
        order = order[torch.randperm(len(order), generator=generator)]
        sizes = [max(1, round(share * len(order))) for share in fractions.values()]
        if sum(sizes) >= len(order):
            raise UserError(
                f"data: class {value} has {len(order)} samples, too few for train, {' and '.join(fractions)}."
                " Add samples, or take a smaller fraction."
            )
        *chunks, rest = order.split([*sizes, len(order) - sum(sizes)])
        for part, chunk in zip(fractions, chunks, strict=True):
            parts[part].append(chunk)
        parts["train"].append(rest)
    return {part: torch.cat(chunks).sort().values.tolist() for part, chunks in parts.items()}


def grouped_split(label: Tensor, fractions: dict[str, float], seed: int, group: Sequence[str]) -> dict[str, list[int]]:
    """The same, where no two parts have samples of one group; shares and classes are met as well as groups allow."""
    rest = list(range(len(label)))
    parts = {}
    for name, share in fractions.items():
        groups, size = [group[i] for i in rest], share * len(label)
        num_folds = max(2, min(round(len(rest) / size), len(set(groups))))
        found = list(_folds(label[rest], num_folds, seed, groups))
        fitting = (fold for fold in found if abs(len(fold[1]) - size) < 0.1 * size)  # a large group is in one of them
        kept, taken = next(fitting, min(found, key=lambda fold: abs(len(fold[1]) - size)))
        parts[name], rest = [rest[i] for i in taken], [rest[i] for i in kept]
    return {"train": rest, **parts}


def fold_split(
    label: Tensor, num_folds: int, fold: int, seed: int, group: Sequence[str] | None = None
) -> tuple[list[int], list[int]]:
    """Sample indices outside and inside one of `num_folds` folds, each of which has its share of every class.

    Raises:
        UserError: a class, or the groups, are too few for so many folds.
    """
    return next(islice(_folds(label, num_folds, seed, group), fold, None))


def _folds(
    label: Tensor, num_folds: int, seed: int, group: Sequence[str] | None
) -> Iterator[tuple[list[int], list[int]]]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    count = label.bincount()
    value = int(count.masked_fill(count == 0, len(label)).argmin())
    if group is None and count[value] < num_folds:
        raise UserError(f"data: class {value} has {count[value]} samples, too few for {num_folds} folds.")
    if group is not None and len(set(group)) < num_folds:
        raise UserError(f"data: there are {len(set(group))} groups, too few for {num_folds} folds.")
    if count.max() < num_folds:
        raise UserError(f"data: no class has more than {count.max()} samples, too few for {num_folds} folds.")
    grouped = GroupKFold if count.count_nonzero() == 1 else StratifiedGroupKFold  # the latter takes hours for many
    kind = StratifiedKFold if group is None else grouped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has fewer samples than there are folds: its groups stay whole
        for outside, inside in kind(num_folds, shuffle=True, random_state=seed).split(label, label, group):
            yield outside.tolist(), inside.tolist()
