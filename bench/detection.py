"""Measure the parts of detection as ratios of CPU time: drawing, loss and assignment, average precision.

    python bench/detection.py RUN      RUN: the folder of a finished run of experiment=detect_digits

A round measures all parts one after the other, so that other work on the machine slows both sides of a ratio. A line
has the median over the rounds, the least and the most.
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lab import runs
from lab.data.base import Data
from lab.data.batches import Batch
from lab.nets import assignment
from lab.tasks.base import Task

NUM_ROUNDS, NUM_STEPS = 5, 8
seconds: dict[str, float] = defaultdict(float)  # of a round, by part


@contextmanager
def timed(part: str) -> Iterator[None]:
    begin = time.process_time()
    yield
    seconds[part] += time.process_time() - begin


def with_time(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def measured(*args: Any, **kwargs: Any) -> Any:
        with timed(part):
            return function(*args, **kwargs)

    return measured


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def train(task: Task, data: Data, first: int) -> None:
    """Some steps, without Lightning."""
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-6)
    task.train()
    for i in range(first, first + NUM_STEPS):
        with timed("draw"):
            batch = data.splits["train"].__getitems__(range(i * data.batch_size, (i + 1) * data.batch_size))
        with timed("step"):
            with autocast():
                loss = task.step(data.on_after_batch_transfer(batch), "train").loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def predict(task: Task, data: Data, batches: list[Batch]) -> None:
    """Predict the test split, and compute what a run reports after a validation and after the test."""
    task.eval()
    for stage, metric in (("val", "score (map, map_50)"), ("test", "score (all)")):
        average_precision = task.metrics[stage]["ap"]
        average_precision.reset()
        for batch in batches:
            with timed("predict " + stage), autocast():
                outputs = task.step(batch, stage).outputs
            average_precision.update(**{name: v for name, v in outputs.items() if name != "original"})
        with timed(metric):
            average_precision.compute()


def main(folder: str) -> None:
    _, data, task = runs.load(folder, test_split=True)
    assignment.losses = with_time("loss", assignment.losses)
    size = data.batch_size
    batches = [
        data.on_after_batch_transfer(
            data.splits["test"].__getitems__(range(i, min(i + size, len(data.splits["test"]))))
        )
        for i in range(0, len(data.splits["test"]), size)
    ]
    rounds = defaultdict(list)
    train(task, data, 0)
    for number in range(NUM_ROUNDS):
        seconds.clear()
        train(task, data, number * NUM_STEPS)
        spent = dict(seconds)
        predict(task, data, batches)
        rounds["scenes drawn per second ÷ pictures trained per second"].append(
            (spent["draw"] + spent["step"]) / spent["draw"]
        )
        rounds["loss and assignment ÷ step"].append(spent["loss"] / spent["step"])
        for stage, part in (("val", "score (map, map_50)"), ("test", "score (all)")):
            rounds[f"{part} ÷ prediction of {len(data.splits['test'])} pictures"].append(
                seconds[part] / seconds["predict " + stage]
            )
    for what, values in rounds.items():
        print(f"{what:60} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main(sys.argv[1])
