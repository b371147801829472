"""The metrics that a config adds to a task's: `task.metrics.auroc={_target_: torchmetrics.AUROC, task: multiclass}`."""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lab.allow import locate
from lab.build import build
from lab.check import parameters
from lab.config import fail, one_line
from lab.data.facts import Facts
from lab.tasks.base import Task


def added_metrics(cfg: DictConfig, facts: Facts) -> Iterator[tuple[str, Metric]]:
    """Build the metrics of a config by name; an argument that is not set is filled with the fact of its name.

    Raises:
        UserError: a metric can't be built, or the task takes none.
    """
    added = cfg.task.get("metrics") or {}
    if added and not takes_metrics(locate(cfg.task._target_)):
        fail([f"task.metrics: task {cfg.task._target_.rpartition('.')[2]} does not accept additional metrics"])
    for name, node in added.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            fail([f"task.metrics.{name}={node}: expected a class with its arguments, {{_target_: torchmetrics.NAME}}"])
        try:
            locate(node._target_)
        except ImportError as error:
            fail([f"task.metrics.{name}: {one_line(error)}"])
        try:
            metric = build(node, facts, none_is_unset=True)
        except InstantiationException as error:
            fail([f"task.metrics.{name}: {one_line(error.__cause__ or error)}"])
        if not isinstance(metric, Metric):
            fail([f"task.metrics.{name}: {node._target_} is no metric of torchmetrics"])
        yield str(name), metric


def takes_metrics(task: Callable[..., Any]) -> bool:
    """Whether a task has an argument `metrics` of metrics by name; that of `Task` has a collection for each stage."""
    own, of_stages = (parameters(function)[0].get("metrics") for function in (task, Task))
    return own is not None and of_stages is not None and own.annotation != of_stages.annotation


def has_several_values(metric: Metric) -> bool:
    """Whether a metric gives a dict, or does not declare what it gives: their names are known once it is computed."""
    return inspect.get_annotations(type(metric).compute).get("return") not in (Tensor, "Tensor", "torch.Tensor")


def refuse_unfit(name: str, metric: Metric, num_classes: int, taken: Collection[str]) -> None:
    """Raises ValueError where a metric's name is taken, or it does not give one number for logits (N, C), labels (N,).

    One process may try it while another waits elsewhere: it never gathers.
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
            tried.update(**tried._filter_kwargs(preds=torch.eye(num_classes)[label], target=label))
            value = tried.compute()
    except Exception as error:  # whatever a metric raises
        reason = " ".join(str(error).split())
        raise ValueError(f"metrics.{name}: it does not take logits and labels as preds and target: {reason}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"metrics.{name}: it gives more than one number; average=macro may help")


def _alone() -> bool:
    return False
