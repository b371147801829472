"""What is printed: for people."""

import shlex
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer


def opening(trainer: Trainer, folder: Path, step: int) -> str:
    """The run's folder, on what it computes, and the step that it goes on with."""
    accelerator = type(trainer.accelerator).__name__.removesuffix("Accelerator").lower()
    threads = f", {torch.get_num_threads()} threads" if accelerator == "cpu" else ""
    goes_on = f", goes on with step {step}" if step else ""
    return f"{folder}: {trainer.world_size} × {accelerator}{threads}{goes_on}"


def summary(results: dict[str, Any], folder: Path) -> str:
    """The test metrics as a table, the run's folder, and how to look at its curves."""
    seconds = results["seconds"]
    time = f"{seconds['total']:.0f} s, {seconds['first_step'] or seconds['total']:.0f} of them to the first step"
    lines = ["", table(results["test"]), "", f"time         {time}", f"run          {folder}"]
    if any(folder.glob("events.*")):
        lines.append(f"tensorboard  tensorboard --logdir {shlex.quote(str(folder))}")
    return "\n".join(lines)


def table(metrics: dict[str, float], num_columns: int = 5) -> str:
    """One metric a line; those of the form a/b/c, one for each class, side by side below."""
    single = {name: value for name, value in metrics.items() if name.count("/") < 2}
    each = [f"{name.split('/', 2)[2][:12]:>12} {value:.3f}" for name, value in metrics.items() if name not in single]
    lines = [f"{name:<12} {value:.4f}" for name, value in sorted(single.items())]
    if each:
        lines.append("each class's accuracy")
    lines += ["  ".join(each[i : i + num_columns]) for i in range(0, len(each), num_columns)]
    return "\n".join(lines)
