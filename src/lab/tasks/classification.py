from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine.constraints import Fraction
from lab.features.base import Feature
from lab.features.labels import ClassLabel
from lab.metrics.added import Metrics, checked
from lab.metrics.classes import ClassAccuracy, ValuePerClass
from lab.tasks.base import Stage, Step, Task


class Classification(Task):
    """Cross-entropy over classes. Reports accuracy (`acc`), macro F1 (`f1`) and, at test, the accuracy of each class.

    Classes without test samples have no accuracy.

    Args:
        label_smoothing: share of the label's probability spread over all classes in training (Szegedy et al. 2016).
        metrics: additional metrics by name, for validation and test. Each takes logits (`preds`) and labels (`target`),
            and gives one number.
    """

    keeps: ClassVar = ("preds", "target")

    def __init__(
        self,
        num_classes: PositiveInt,
        class_names: list[str],
        label_smoothing: Fraction = 0.0,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        acc: Metrics = {"acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False)}
        f1 = {"f1": MulticlassF1Score(num_classes, average="macro", validate_args=False)}
        each = {"each": ValuePerClass(ClassAccuracy(num_classes, validate_args=False), class_names, prefix="acc/")}
        more = checked(metrics, num_classes, taken=("loss", *acc, *f1, *each))
        stages = {"train": acc, "val": acc | f1 | more, "test": acc | f1 | each | more}
        super().__init__(metrics={stage: MetricCollection(m).clone() for stage, m in stages.items()}, **kwargs)
        self.class_names, self.label_smoothing = class_names, label_smoothing

    def step(self, batch: Batch, stage: Stage) -> Step:
        logits, label = self(batch), batch["label"]
        smoothing = self.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits, label, label_smoothing=smoothing)
        return Step(loss, outputs={"preds": logits, "target": label})

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        probability = outputs["preds"].float().softmax(-1)
        best, prediction = probability.max(-1)
        return {
            "label": [self.class_names[i] for i in outputs["target"].tolist()],
            "prediction": [self.class_names[i] for i in prediction.tolist()],
            "probability": best.tolist(),
            **{f"p({name})": p.tolist() for name, p in zip(self.class_names, probability.T, strict=True)},
        }

    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        from lab.figures.classification import classification  # importing matplotlib takes half a second

        probability = outputs["preds"].float().softmax(-1)
        return classification(probability, outputs["target"], self.class_names, samples.show)

    @property
    def outputs(self) -> dict[str, Feature]:
        return {"class": ClassLabel(self.class_names, entry="class")}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`class` (B, num_classes), probabilities."""
        return {"class": self(batch).float().softmax(-1)}
