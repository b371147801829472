"""Metrics that a config adds to a task: `task.metrics.auroc={_target_: torchmetrics.AUROC, task: multiclass}`."""

import inspect
import warnings
from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lab.engine.training.lightning_quirks import taken_by

Metrics = dict[str, Metric | MetricCollection]  # by name, as a MetricCollection takes them


def has_several_values(metric: Metric) -> bool:
    """Return whether a metric may compute several values, with names that are unknown before the first `compute`."""
    return inspect.get_annotations(type(metric).compute).get("return") not in (Tensor, "Tensor", "torch.Tensor")


def checked(metrics: Mapping[str, Metric] | None, num_classes: int, taken: Collection[str]) -> Metrics:
    """Return the metrics that a config adds to a classifier's.

    Args:
        metrics: by name; None: there are none.
        num_classes: columns of the logits.
        taken: the names of the metrics of the classifier.

    Raises:
        ValueError: a name is taken, or a metric does not give one number for logits (N, C) and labels (N,).
    """
    for name, metric in (metrics or {}).items():
        refuse_unfit(name, metric, num_classes, taken)
    return dict(metrics or {})


def refuse_unfit(name: str, metric: Metric, num_classes: int, taken: Collection[str]) -> None:
    """Raise ValueError if the name of a metric is taken, or it does not compute one number from logits and labels.

    One process may call this while another waits elsewhere: nothing is gathered.
    """
    if name in taken:
        raise ValueError(f"metrics.{name}: the task has a {name} already; choose another name")
    if not name or "." in name or "/" in name or hasattr(MetricCollection({}), name):
        raise ValueError(f"metrics.{name}: a metric cannot have this name; choose another")
    label = torch.arange(2 * num_classes) % num_classes
    tried = metric.clone()
    for part in tried.modules():
        if isinstance(part, Metric):
            part.sync_on_compute, part.dist_sync_on_step, part.distributed_available_fn = False, False, _alone
    try:
        with warnings.catch_warnings(action="ignore"):
            tried.update(**taken_by(tried, {"preds": torch.eye(num_classes)[label], "target": label}))
            value = tried.compute()
    except Exception as error:  # whatever a metric raises
        reason = " ".join(str(error).split())
        raise ValueError(f"metrics.{name}: it does not take logits and labels as preds and target: {reason}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"metrics.{name}: it gives more than one number; average=macro may help")


def _alone() -> bool:
    return False
