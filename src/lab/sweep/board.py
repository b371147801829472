"""The progress of a sweep in the terminal: the running jobs, and at the end a table of all jobs."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lab.engine.display import printable, say
from lab.engine.errors import UserError
from lab.engine.files import read_metrics
from lab.engine.keys import key_of
from lab.engine.runs.index import ARROWS
from lab.sweep.launcher import Job, Trial

COLUMNS = shutil.get_terminal_size().columns - 1  # a wrapped line could not be overwritten
ORDER = ("finished", "pruned", "failed", "interrupted", "running", "waiting")


class Board:
    """The jobs of a sweep, and the lines that show them.

    Args:
        folder: the sweep's folder.
        varied: the keys that differ between jobs.
        cfg: the config of the first job.
    """

    def __init__(self, folder: Path, varied: set[str], cfg: DictConfig) -> None:
        self.folder, self.varied, self.metric, self.mode = folder, varied, cfg.monitor.metric, cfg.monitor.mode
        self.heading = f"{self.metric} {ARROWS[self.mode]}"
        self.width = max(8, len(self.heading))
        self.num_epochs = cfg.trainer.max_epochs or 0
        self.jobs: dict[int, Job] = {}  # by number
        self.num_lines = 0  # printed lines that the next ones overwrite

    def add(self, trial: Trial) -> Job:
        folder = self.folder / f"{trial.number:03d}"
        self.jobs[trial.number] = job = Job(trial.number, trial.overrides, folder, trial.environ)
        return job

    def label(self, job: Job) -> str:
        """The overrides that make the job differ from the others."""
        return " ".join(word for word in job.overrides if key_of(word) in self.varied)

    def ended(self, job: Job) -> None:
        self._erase()
        say(self._line(job))

    def show(self, running: Sequence[Job]) -> None:
        """Print the running jobs over the lines of the last call."""
        if not sys.stdout.isatty():
            return
        self._erase()
        for job in running:
            epoch, score = progress(job.folder, self.metric)
            share = epoch / self.num_epochs if self.num_epochs > 0 else 0
            passed = time.monotonic() - job.started
            left = f"{passed / share - passed:.0f} s left" if share else ""
            cells = [f"{job.number:>4}", f"epoch {epoch} of {self.num_epochs}", score, f"{passed:.0f} s", left]
            say(printable("  ".join([*cells, job.reason, self.label(job)]))[:COLUMNS])
        self.num_lines = len(running)
        sys.stdout.flush()

    def _erase(self) -> None:
        if self.num_lines:
            sys.stdout.write(f"\x1b[{self.num_lines}A\x1b[J")
        self.num_lines = 0

    def _line(self, job: Job) -> str:
        score = "" if job.value is None else f"{job.value:.4f}"
        time_taken = f"{job.ended - job.started:.0f} s" if job.ended else ""
        label = f"{self.label(job)}  {job.reason}".rstrip()
        return f"{job.number:>4}  {job.status:<11} {score:>{self.width}} {time_taken:>7}  {label}".rstrip()

    def summary(self) -> list[str]:
        """A table of all jobs, the best first, and the number of jobs with each status."""
        sign = -1 if self.mode == "max" else 1

        def order(job: Job) -> tuple[int, float, int]:
            return ORDER.index(job.status), sign * job.value if job.value is not None else 0.0, job.number

        jobs = sorted(self.jobs.values(), key=order)
        counts = ", ".join(f"{n} {s}" for s in ORDER if (n := sum(job.status == s for job in jobs)))
        head = f"{'job':>4}  {'status':<11} {self.heading:>8} {'time':>7}"
        return ["", head, *map(self._line, jobs), "", f"{self.folder}: {counts}"]


def progress(folder: Path, metric: str) -> tuple[int, str]:
    """The number of epochs that a run has trained, and its last score."""
    try:
        rows = [row for row in read_metrics(folder / "metrics.csv") if metric in row]
    except (OSError, UserError):
        rows = []
    return (rows[-1].get("epoch", 0) + 1, f"{rows[-1][metric]:.4f}") if rows else (0, "")
