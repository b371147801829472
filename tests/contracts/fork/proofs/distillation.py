"""A small net learns from the probabilities of a finished run (Hinton et al. 2015, https://arxiv.org/abs/1503.02531)."""

from typing import Any

import torch.nn.functional as F
from pydantic import PositiveFloat

from lab.engine.constraints import Fraction
from lab.tasks.base import Batch, Stage, Step
from lab.tasks.classification import Classification
from lab.tasks.judge import Judge


class Distillation(Classification):
    """Cross-entropy with the labels, and with the softened probabilities of a teacher.

    Args:
        teacher: the folder of a finished run on the same data.
        share: of the teacher's part in the loss.
        temperature: by which both nets' logits are divided.
    """

    def __init__(self, teacher: str, share: Fraction = 0.5, temperature: PositiveFloat = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher, self.share, self.temperature = Judge(teacher), share, temperature

    def step(self, batch: Batch, stage: Stage) -> Step:
        own = super().step(batch, stage)
        theirs = (self.teacher.logits(batch) / self.temperature).softmax(-1)
        logits = self(batch) / self.temperature
        teacher = self.temperature**2 * F.cross_entropy(logits, theirs)
        parts = {"label": own.loss, "teacher": teacher}
        return Step((1 - self.share) * own.loss + self.share * teacher, parts, own.outputs)
