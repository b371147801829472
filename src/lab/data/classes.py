"""Checks of the classes of a data set."""

from collections.abc import Mapping, Sequence

from lab.engine.errors import UserError


def check_classes(labels: Mapping[str, Sequence[int]], class_names: Sequence[str]) -> None:
    """Refuse data that a classifier cannot be trained on.

    Args:
        labels: the class of each sample, for each split.
        class_names: the names of the classes.

    Raises:
        UserError: there is only one class, a split is empty, or a label is no class.
    """
    if len(class_names) < 2:
        raise UserError(f"data: every training sample has the class {class_names[0]}. A classifier needs two classes.")
    for split, label in labels.items():
        if not len(label):
            raise UserError(f"data: {split} has no samples.")
        refuse_wrong_labels(split, label, len(class_names))


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
