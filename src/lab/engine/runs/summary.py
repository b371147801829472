"""The lines that a run prints at its start and its end."""

import signal
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from lab.engine.display import command, printable
from lab.engine.folder import LAST

NAME_WIDTH, LINE_WIDTH = 24, 100  # characters


def opening(trainer: Trainer, folder: Path, step: int) -> str:
    """The first line: the run's folder, its accelerator, and the step at which it resumes."""
    accelerator = type(trainer.accelerator).__name__.removesuffix("Accelerator").lower()
    threads = f", {torch.get_num_threads()} threads" if accelerator == "cpu" else ""
    resumes = f", resumes at step {step}" if step else ""
    batches = getattr(trainer, "overfit_batches", 0)
    once = f"; with trainer.overfit_batches={batches} it cannot be resumed" if batches else ""
    return f"{folder}: {trainer.world_size} × {accelerator}{threads}{resumes}{once}"


def summary(results: dict[str, Any], folder: Path) -> list[str]:
    """The last lines: the test metrics, the time, the run's folder, and the command that shows its curves."""
    times = results["seconds"]
    time = f"{times['total']:.0f} s, of which {times['first_step'] or times['total']:.0f} s until the first step"
    lines = ["", *metrics_table(results["test"]), "", f"time         {time}", f"run          {folder}"]
    if any(folder.glob("events.*")):
        lines.append(f"tensorboard  {command('tensorboard', '--logdir', str(folder))}")
    return lines


def stopped(folder: Path, code: Any, can_resume: bool = True) -> list[str]:
    """The lines after a signal: its name, whether there is a checkpoint, and the command that resumes the run."""
    name = signal.Signals(code - 128).name if isinstance(code, int) and code > 128 else f"exit code {code}"
    kept = (
        f"{folder / LAST} is kept"
        if (folder / LAST).exists()
        else "no checkpoint was written before the first step ended"
    )
    if not can_resume:
        return [f"Stopped by {name}; {kept}. With trainer.overfit_batches the run cannot be resumed."]
    return [f"Stopped by {name}; {kept}. To resume:", command("lab", "train", f"run={folder}")]


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def metrics_table(metrics: dict[str, float]) -> list[str]:
    """A line for each metric and each part of the loss. Metrics of classes (a/b/c) follow, several in a line."""
    single = {name: value for name, value in metrics.items() if name.count("/") < 2 or "/loss/" in name}
    each = {printable(name.split("/", 2)[2]): value for name, value in metrics.items() if name not in single}
    width = min(NAME_WIDTH, max(map(len, each), default=0))
    cells = [f"{name[:width]:>{width}} {value:.3f}" for name, value in each.items()]
    num_columns = max(1, min(5, LINE_WIDTH // (width + 8)))
    longest = max([12, *map(len, single)])
    lines = [f"{name:<{longest}} {value:.4f}" for name, value in sorted(single.items())]
    if each:
        lines.append(f"{next(name for name in metrics if name not in single).split('/')[1]} of each class")
    lines += ["  ".join(cells[i : i + num_columns]) for i in range(0, len(cells), num_columns)]
    return lines
