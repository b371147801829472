"""The losses and metrics of an epoch, accumulated over its batches."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from lab.engine.training.lightning_quirks import mean_metric, without_shared_state
from lab.metrics.buffer import MetricBuffer


class EpochMetrics(nn.Module):
    """The losses and metrics of the current epoch of each stage.

    Args:
        metrics: the metrics of each stage, such as "val".
    """

    def __init__(self, metrics: Mapping[str, MetricCollection]) -> None:
        super().__init__()
        # for each stage: every loss times its batch's size, summed; and the sum of the sizes
        self.sums: dict[str, tuple[dict[str, Any], Any]] = {}
        metrics = {stage: without_shared_state(collection) for stage, collection in metrics.items()}
        # the underscores are needed because `train` is a method of ModuleDict
        self.means = nn.ModuleDict({f"{stage}_": mean_metric() for stage in metrics})
        self.metrics = nn.ModuleDict({f"{stage}_": collection for stage, collection in metrics.items()})
        self.metric_buffers = {stage: MetricBuffer(collection) for stage, collection in metrics.items()}

    def __getitem__(self, stage: str) -> MetricCollection:
        return cast(MetricCollection, self.metrics[f"{stage}_"])

    def update(
        self, stage: str, loss: Tensor, parts: Mapping[str, Tensor], size: Any, outputs: dict[str, Tensor]
    ) -> None:
        """Add a batch.

        Args:
            stage: of the batch.
            loss: the mean over the batch.
            parts: further means over the batch by name.
            size: the number of terms in these means.
            outputs: the arguments of the metrics' `update`, by name.

        Raises:
            ValueError: the parts have other names than those of the batches before, or one is named "loss".
        """
        if "loss" in parts:
            raise ValueError("step: a part cannot be named loss")
        self.metric_buffers[stage].update(outputs)
        totals, num = self.sums.get(stage, ({}, 0))
        if totals and totals.keys() != {"loss", *parts}:
            names = f"got {list(parts)}, before {list(totals)[1:]}"
            raise ValueError(f"step: parts must have the same names in every step of a stage; {stage}: {names}")
        losses = {"loss": loss, **parts}
        sums = {name: totals.get(name, 0.0) + value.detach().float() * size for name, value in losses.items()}
        self.sums[stage] = sums, num + size

    def compute(self, stage: str) -> dict[str, Any]:
        """Return the values of the epoch by name, over all processes, and start a new epoch; empty: no batch."""
        if stage not in self.sums:
            return {}
        mean, values = cast(MeanMetric, self.means[f"{stage}_"]), {}
        totals, num = self.sums.pop(stage)
        for name, total in totals.items():
            mean.update(total / num, weight=num)
            values[name if name == "loss" else f"loss/{name}"] = mean.compute()
            mean.reset()
        return values | self.metric_buffers[stage].compute()

    def training_state(self) -> dict[str, Any]:
        """The state of the training epoch, for a checkpoint in the middle of it."""
        metrics = self["train"]
        metrics.persistent(True)
        state = {
            "sums": self.sums.get("train"),
            "metrics": metrics.state_dict(),
            "pending": self.metric_buffers["train"].state(),
        }
        metrics.persistent(False)
        return state

    def restore_training(self, states: Sequence[dict[str, Any]], rank: int, world_size: int) -> None:
        """Restore a `training_state`, unless the number of processes has changed.

        Args:
            states: the states of all processes, by rank.
            rank: of this process.
            world_size: the number of processes.
        """
        if len(states) != world_size:
            return
        state = states[rank]
        if state["sums"] is not None:
            self.sums["train"] = state["sums"]
            self["train"].load_state_dict(state["metrics"])
            self.metric_buffers["train"].restore(state["pending"])


def gathered_by_process(state: Any, world_size: int) -> list[Any]:
    """The states of all processes, by rank."""
    states = [state]
    if world_size > 1:
        states = [None] * world_size
        torch.distributed.all_gather_object(states, state)
    return states
