"""The classes of a data set: checks, and the facts."""

from collections.abc import Mapping, Sequence

from lab.data.data_report import fingerprint
from lab.data.facts import Facts
from lab.engine.display import in_utf8
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.labels import ClassLabel


def check_classes(labels: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> list[str]:
    """Refuse data that a classifier cannot be trained on. Return the names of the classes in valid UTF-8.

    Args:
        labels: the class of each sample, for each split.
        class_names: the names of the classes. Those of folders, or from JSON, may have halves of surrogate pairs.

    Raises:
        UserError: there is only one class, a split is empty, or a label is no class.
    """
    if len(class_names) < 2:
        raise UserError(f"data: every training sample has the class {class_names[0]}. A classifier needs two classes.")
    for split, label in labels.items():
        if not len(label):
            raise UserError(f"data: {split} has no samples.")
        refuse_wrong_labels(split, label, len(class_names))
    return list(map(in_utf8, class_names))


def refuse_wrong_labels(split: str, label: Sequence[int], num_classes: int) -> None:
    """Refuse labels that are no class; on a GPU they would end the process without a reason.

    Raises:
        UserError: a label is negative, or not less than `num_classes`.
    """
    wrong = next((value for value in label if not 0 <= value < num_classes), None)
    if wrong is not None:
        raise UserError(
            f"data: {split} has the label {wrong}; there are {num_classes} classes: expected 0 to {num_classes - 1}."
        )


def classification_facts(
    inputs: dict[str, Feature],
    contents: dict[str, list[bytes]],
    labels: Mapping[str, Sequence[int]],
    class_names: list[str],
) -> Facts:
    """The facts of data with classes.

    Args:
        inputs: the features of the inputs.
        contents: a digest of each sample, for each split.
        labels: the class of each sample, for each split.
        class_names: the names of the classes.
    """
    return Facts(
        {**inputs, "label": ClassLabel(class_names)},
        num_samples={name: len(label) for name, label in labels.items()},
        fingerprint=fingerprint(contents, labels, class_names),
    )
