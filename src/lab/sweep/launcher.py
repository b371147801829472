"""A sweep's jobs, and what is common to those who run them: the processes of this machine, and SLURM."""

import contextlib
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lab.engine.errors import PRUNED
from lab.engine.folder import CONFIG


class Task(NamedTuple):
    """What a search wants to be run. Its number is its folder's name: one that is given again goes on there."""

    number: int
    overrides: list[str]
    environ: dict[str, str] = {}  # noqa: RUF012


@dataclass
class Job:
    """One training, in a folder that is fixed before it starts; `log` has what it prints."""

    number: int
    overrides: list[str]
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)  # more of it
    status: str = "waiting"  # running, finished, pruned, failed, stopped
    why: str = ""  # it did not finish, or does not run yet
    value: float | None = None  # of the monitored metric, at its best
    tries: int = 0
    started: float = 0.0
    ended: float = 0.0
    id: int = 0  # of its process, or SLURM's of the job
    slot: int = 0
    log_start: int = 0  # bytes that earlier tries have written

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def words(self) -> list[str]:
        """What `lab train` is told."""
        return [*self.overrides, f"run={self.folder}"]

    def said(self) -> str:
        """What this try has printed."""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.log.exists() else ""


class Launcher(ABC):
    """Runs jobs, `num_slots` at a time."""

    outlived = False  # by its jobs: another that is given the same ones takes them over
    grace: float  # seconds from asking a job to end to killing it
    period: float  # seconds between two looks at the jobs

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.running: list[Job] = []
        self.stopping = False

    def has_room(self) -> bool:
        return len(self.running) < self.num_slots

    def start(self, job: Job) -> None:
        job.started, job.status, job.why, job.tries = time.monotonic(), "running", "", job.tries + 1
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.log_start = job.log.stat().st_size if job.log.exists() else 0
        self._start(job)
        self.running.append(job)

    def wait(self, seconds: float) -> Job | None:
        """A job that has ended; None if none does within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            for job in self.running:
                if (code := self._exit_code(job)) is not None:
                    self._ended(job, code)
                    return job
            if time.monotonic() > end:
                return None
            time.sleep(self.period)

    def _ended(self, job: Job, code: int) -> None:
        self.running.remove(job)
        job.ended = time.monotonic()
        if code == 0:
            job.status, job.why = "finished", ""
        elif code == PRUNED:
            job.status, job.why = "pruned", ""
        elif self.stopping or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            job.status, job.why = "stopped", "can be resumed"
        else:
            job.status, job.why = "failed", self._reason(job, code)

    def stop(self) -> None:
        """Ask all jobs to save and end; those that don't in time, or at a second Ctrl-C, are killed."""
        self.stopping = True
        with contextlib.suppress(KeyboardInterrupt):
            self._ask_to_end()
            end = time.monotonic() + self.grace
            while self.running and time.monotonic() < end:
                self.wait(0.2)
        self._kill()
        while self.running:
            self.wait(1)

    @abstractmethod
    def _start(self, job: Job) -> None: ...

    @abstractmethod
    def _exit_code(self, job: Job) -> int | None:
        """None while it runs."""

    @abstractmethod
    def _reason(self, job: Job, code: int) -> str:
        """Why it failed, in a line."""

    @abstractmethod
    def _ask_to_end(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...


def last_error(said: str) -> str:
    """The last error that a log tells of, else its last line."""
    lines = [line for line in said.rpartition("Traceback (most recent")[2].splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")


def clear(folder: Path) -> None:
    """Remove what was killed before it was a run."""
    if folder.exists() and not (folder / CONFIG).exists():
        shutil.rmtree(folder)


def without_slurm() -> dict[str, str]:
    """The environment, less what SLURM says there of the job that a sweep itself runs in."""
    return {name: value for name, value in os.environ.items() if name[:6] != "SLURM_" or name == "SLURM_CONF"}
