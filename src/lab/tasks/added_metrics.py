"""The metrics that a config adds to those of a task."""

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig
from torchmetrics import Metric

from lab.data.facts import Facts
from lab.engine.config.allow import locate
from lab.engine.config.instantiate import InstantiationError, instantiate
from lab.engine.config.signatures import parameters
from lab.engine.errors import fail, one_line
from lab.tasks.base import Task


def added_metrics(cfg: DictConfig, facts: Facts) -> Iterator[tuple[str, Metric]]:
    """Yield the metrics of a config by name. An argument that is not set is filled with the fact of its name.

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
            metric = instantiate(node, facts, none_is_unset=True)
        except InstantiationError as error:
            fail([f"task.metrics.{name}: {one_line(error.__cause__ or error)}"])
        if not isinstance(metric, Metric):
            fail([f"task.metrics.{name}: {node._target_} is not a torchmetrics metric"])
        yield str(name), metric


def takes_metrics(task: Callable[..., Any]) -> bool:
    """Return whether a task has an argument `metrics` by name; that of `Task` is a collection for each stage."""
    argument, of_base = (parameters(function)[0].get("metrics") for function in (task, Task))
    return argument is not None and of_base is not None and argument.annotation != of_base.annotation
