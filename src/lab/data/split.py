"""Splits: their names, and how samples are drawn for training, validation and test."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.data.folds import group_folds, stratified_folds, stratified_group_folds
from lab.engine.errors import UserError

SPLITS = ("train", "val", "test")
SYNONYMS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development", "validate", "eval", "evaluation"),
    "test": ("test", "testing", "tests"),
}
_SPLIT_OF = {synonym: split for split, synonyms in SYNONYMS.items() for synonym in synonyms}
FILLERS = {  # words that a name may have in addition to the word of the split
    "set", "data", "dataset", "split", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos",
    "text", "texts", "file", "files", "sample", "samples", "folder",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """Return the split that a name means; None: it means no split.

    The name is that of a folder, of a file without its suffix, or a cell of a table. Case, numbers and words such as
    "set" are ignored: `Training_set` is train, `dev2` is val.
    """
    words = [word for word in _words(name) if word not in FILLERS]
    return _SPLIT_OF.get(words[0]) if len(words) == 1 else None


def split_words(name: str) -> set[str]:
    """The splits whose words occur in a name with other words: `seg_train` may be train."""
    return {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}


def _words(name: str) -> list[str]:
    return [word.removesuffix("set") or word for word in re.findall(r"[^\W\d_]+", name.lower())]


def by_split(paths: Sequence[Path], names: Sequence[str], root: Path) -> dict[str, Path]:
    """The paths whose names mean a split, by split.

    Raises:
        UserError: two names mean the same split.
    """
    found: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        split = split_of(name)
        if split in found:
            raise UserError(
                f"data.root: {root} has {found[split].name} and {path.name}, which are both {split}. Remove one."
            )
        if split is not None:
            found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def groups_of(cells: Sequence[str | None]) -> list[str]:
    """A group for each sample. A sample with an empty cell is a group by itself."""
    return [cell.strip() if cell and cell.strip() else f"\0{i}" for i, cell in enumerate(cells)]


def pattern_groups(pattern: str | None, paths: Sequence[str], root: Path) -> list[str] | None:
    """A group for each file: the match of a regular expression, or of its first parenthesis, in the path below `root`.

    Raises:
        UserError: it is not a regular expression, or does not match a path.
    """
    if pattern is None:
        return None
    try:
        found = [re.search(pattern, str(Path(path).relative_to(root))) for path in paths]
    except re.error as error:
        raise UserError(f"data.group={pattern}: not a regular expression: {error}.") from error
    if None in found:
        raise UserError(f"data.group={pattern}: no match in {paths[found.index(None)]}.")
    return groups_of([match.group(match.re.groups and 1) for match in found if match])


def draw_splits(
    label: Tensor | int,
    fractions: dict[str, float],
    seed: int,
    group: Sequence[str] | None = None,
    folds: tuple[int, int] | None = None,
) -> dict[str, list[int]]:
    """Draw sample indices for "train" and for each part in `fractions`, class by class.

    Args:
        label: (N,) class of each sample; or N, if the samples have no classes.
        fractions: the share of every class that each part gets.
        seed: the same seed gives the same split.
        group: the group of each sample. The samples of a group are all in one part.
        folds: for cross-validation, the number of folds and the fold that becomes the part "test".
    """
    if isinstance(label, int):
        label = torch.zeros(label, dtype=torch.int64)
    if folds is None:
        return _split(label, fractions, seed, group)
    rest, test = fold_split(label, *folds, seed, group)
    fractions = {name: share for name, share in fractions.items() if name != "test"}
    parts = _split(label[rest], fractions, seed, [group[i] for i in rest] if group else None)
    return {name: [rest[i] for i in index] for name, index in parts.items()} | {"test": test}


def _split(label: Tensor, fractions: dict[str, float], seed: int, group: Sequence[str] | None) -> dict[str, list[int]]:
    return grouped_split(label, fractions, seed, group) if group else stratified_split(label, fractions, seed)


def stratified_split(label: Tensor, fractions: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Draw sample indices for "train" and for each part in `fractions`, class by class.

    Args:
        label: (N,) class of each sample.
        fractions: the share of every class that each part gets, at least one sample. If a class has too few samples for
            that, all are in train.
        seed: the same seed gives the same split.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {"train": [], **{part: [] for part in fractions}}
    for value in label.bincount().nonzero().flatten().tolist():
        order = (label == value).nonzero().flatten()
        order = order[torch.randperm(len(order), generator=generator)]
        sizes = [max(1, round(share * len(order))) for share in fractions.values()]
        if sum(sizes) >= len(order):
            sizes = [0 for _ in sizes]
        *chunks, rest = order.split([*sizes, len(order) - sum(sizes)])
        for part, chunk in zip(fractions, chunks, strict=True):
            parts[part].append(chunk)
        parts["train"].append(rest)
    if fractions and not any(len(chunk) for part in fractions for chunk in parts[part]):
        raise UserError(
            f"data: each class has too few samples for train, {' and '.join(fractions)}: the largest has"
            f" {label.bincount().max() if len(label) else 0}. Add samples, or use smaller fractions."
        )
    return {part: torch.cat(chunks).sort().values.tolist() for part, chunks in parts.items()}


def grouped_split(label: Tensor, fractions: dict[str, float], seed: int, group: Sequence[str]) -> dict[str, list[int]]:
    """As `stratified_split`, but all samples of a group are in one part. Shares are met as closely as possible.

    Train has all classes.
    """
    rest = list(range(len(label)))
    parts = {}
    for name, share in fractions.items():
        groups, size = [group[i] for i in rest], share * len(label)
        num_folds = max(2, min(round(len(rest) / size), len(set(groups))))
        found = _folds(label[rest], num_folds, seed, groups)
        fitting = (fold for fold in found if abs(len(fold[1]) - size) < 0.1 * size)  # a large group is in one fold
        kept, taken = next(fitting, min(found, key=lambda fold: abs(len(fold[1]) - size)))
        parts[name], rest = [rest[i] for i in taken], [rest[i] for i in kept]
    for name, index in parts.items():
        rest, parts[name] = _with_all_classes(label, rest, index, group)
    return {"train": rest, **parts}


def fold_split(
    label: Tensor, num_folds: int, fold: int, seed: int, group: Sequence[str] | None = None
) -> tuple[list[int], list[int]]:
    """Sample indices outside and inside one of `num_folds` folds. Each fold has the same share of every class.

    Classes with fewer samples than folds are in no fold.

    Raises:
        UserError: there are more folds than samples of a class, or than groups.
    """
    if group is not None:
        return _with_all_classes(label, *_folds(label, num_folds, seed, group)[fold], group)
    is_rare = label.bincount()[label] < num_folds
    rare, others = is_rare.nonzero().flatten().tolist(), (~is_rare).nonzero().flatten()
    if not len(others):
        largest = label.bincount().max()
        raise UserError(f"data: no class has more than {largest} samples, too few for {num_folds} folds.")
    outside, inside = _folds(label[others], num_folds, seed, None)[fold]
    return sorted([*rare, *others[outside].tolist()]), others[inside].tolist()


def _with_all_classes(
    label: Tensor, train: list[int], part: list[int], group: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Move groups from a part to train if train has no sample of one of their classes."""
    known = set(label[train].tolist())
    moved = {group[i] for i in part if label[i].item() not in known}
    if not moved:
        return train, part
    return sorted([*train, *(i for i in part if group[i] in moved)]), [i for i in part if group[i] not in moved]


def _folds(label: Tensor, num_folds: int, seed: int, group: Sequence[str] | None) -> list[tuple[list[int], list[int]]]:
    """Sample indices outside and inside each fold."""
    count = label.bincount()
    if group is not None and len(set(group)) < num_folds:
        raise UserError(f"data: there are {len(set(group))} groups, too few for {num_folds} folds.")
    if count.max() < num_folds:
        raise UserError(f"data: no class has more than {count.max()} samples, too few for {num_folds} folds.")
    if group is None:
        fold = stratified_folds(label.numpy(), num_folds, seed)
    elif count.count_nonzero() == 1:  # faster
        fold = group_folds(group, num_folds, seed)
    else:
        fold = stratified_group_folds(label.numpy(), group, num_folds, seed)
    return [((fold != i).nonzero()[0].tolist(), (fold == i).nonzero()[0].tolist()) for i in range(num_folds)]
