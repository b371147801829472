"""The accuracy of each class."""

from typing import Any

from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.wrappers import ClasswiseWrapper


class ClassAccuracy(MulticlassAccuracy):
    """(C,) accuracy of each class; NaN for a class without samples."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, average=None, **kwargs)

    def compute(self) -> Tensor:
        tp, _, _, fn = self._final_state()
        return tp / (tp + fn)


class ValuePerClass(ClasswiseWrapper):
    """The values of a metric by the names of the classes; classes without samples are left out."""

    def compute(self) -> dict[str, Tensor]:
        return {name: value for name, value in super().compute().items() if not value.isnan()}
