"""What a sweep shows: its jobs while they run, and a table of what came of them."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lab.engine.display import printable, say
from lab.engine.errors import UserError
from lab.engine.folder import read_metrics
from lab.engine.keys import key_of
from lab.engine.runs.index import ARROWS
from lab.sweep.launcher import Job, Task

COLUMNS = shutil.get_terminal_size().columns - 1  # a line that wraps could not be drawn over
ORDER = ("finished", "pruned", "failed", "stopped", "running", "waiting")


class Board:
    """The jobs, by number.

    Args:
        place: the sweep's folder.
        varied: the keys that differ between jobs.
        cfg: the first job's config.
    """

    def __init__(self, place: Path, varied: set[str], cfg: DictConfig) -> None:
        self.place, self.varied, self.metric, self.mode = place, varied, cfg.monitor.metric, cfg.monitor.mode
        self.heading = f"{self.metric} {ARROWS[self.mode]}"
        self.width = max(8, len(self.heading))
        self.num_epochs = cfg.trainer.max_epochs or 0
        self.jobs: dict[int, Job] = {}
        self.num_lines = 0  # drawn, to be drawn over

    def add(self, task: Task) -> Job:
        folder = self.place / f"{task.number:03d}"
        self.jobs[task.number] = job = Job(task.number, task.overrides, folder, task.environ)
        return job

    def label(self, job: Job) -> str:
        """The overrides that make the job differ from the others."""
        return " ".join(word for word in job.overrides if key_of(word) in self.varied)

    def ended(self, job: Job) -> None:
        self._erase()
        say(self._line(job))

    def show(self, running: Sequence[Job]) -> None:
        """The running jobs, drawn over what was drawn before."""
        if not sys.stdout.isatty():
            return
        self._erase()
        for job in running:
            epoch, score = progress(job.folder, self.metric)
            share = epoch / self.num_epochs if self.num_epochs > 0 else 0
            passed = time.monotonic() - job.started
            left = f"{passed / share - passed:.0f} s left" if share else ""
            words = (f"{job.number:>4}", f"epoch {epoch} of {self.num_epochs}", score, f"{passed:.0f} s", left, job.why)
            say(printable("  ".join([*words, self.label(job)]))[:COLUMNS])
        self.num_lines = len(running)
        sys.stdout.flush()

    def _erase(self) -> None:
        if self.num_lines:
            sys.stdout.write(f"\x1b[{self.num_lines}A\x1b[J")
        self.num_lines = 0

    def _line(self, job: Job) -> str:
        score = "" if job.value is None else f"{job.value:.4f}"
        seconds = f"{job.ended - job.started:.0f} s" if job.ended else ""
        words = f"{self.label(job)}  {job.why}".rstrip()
        return f"{job.number:>4}  {job.status:<9} {score:>{self.width}} {seconds:>7}  {words}".rstrip()

    def table(self) -> list[str]:
        """All jobs, the best first."""
        sign = -1 if self.mode == "max" else 1

        def order(job: Job) -> tuple[int, float, int]:
            return ORDER.index(job.status), sign * job.value if job.value is not None else 0.0, job.number

        jobs = sorted(self.jobs.values(), key=order)
        counts = ", ".join(f"{n} {s}" for s in ORDER if (n := sum(job.status == s for job in jobs)))
        head = f"{'job':>4}  {'status':<9} {self.heading:>8} {'time':>7}"
        return ["", head, *map(self._line, jobs), "", f"{self.place}: {counts}"]


def progress(folder: Path, metric: str) -> tuple[int, str]:
    """The epochs that a run has had, and its last score."""
    try:
        rows = [row for row in read_metrics(folder / "metrics.csv") if metric in row]
    except (OSError, UserError):
        rows = []
    return (rows[-1].get("epoch", 0) + 1, f"{rows[-1][metric]:.4f}") if rows else (0, "")
