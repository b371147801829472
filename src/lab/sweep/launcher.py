"""The jobs of a sweep, and the base class of the launchers that run them: `Pool` (this machine) and `Slurm`."""

import contextlib
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from lab.engine.errors import PRUNED
from lab.engine.folder import CONFIG


class Trial(NamedTuple):
    """One point of the search space. Its number names its folder: the same number again resumes the run there."""

    number: int
    overrides: list[str]
    environ: dict[str, str] = {}  # noqa: RUF012  # more environment variables


@dataclass
class Job:
    """The training of a trial. Its folder is fixed before it starts; its output is appended to `log`."""

    number: int
    overrides: list[str]
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    status: str = "waiting"  # running, finished, pruned, failed, stopped
    reason: str = ""  # why it did not finish, or does not run yet
    value: float | None = None  # the best value of the monitored metric
    tries: int = 0
    started: float = 0.0
    ended: float = 0.0
    id: int = 0  # the process ID, or SLURM's job ID
    slot: int = 0
    log_start: int = 0  # bytes of the log that earlier tries have written

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def words(self) -> list[str]:
        """The arguments of `lab train`."""
        return [*self.overrides, f"run={self.folder}"]

    def output(self) -> str:
        """The output of the current try."""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.log.exists() else ""


class Launcher(ABC):
    """Runs up to `num_slots` jobs at the same time."""

    jobs_survive = False  # whether jobs continue without the sweep's process; the next start takes them over
    grace: float  # seconds between the request to end and the kill
    period: float  # seconds between two polls

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.running: list[Job] = []
        self.stopping = False

    def prepare(self, cfg: DictConfig) -> None:  # noqa: B027  a launcher may do nothing
        """Called once before the first job, with its config."""

    def has_room(self) -> bool:
        return len(self.running) < self.num_slots

    def start(self, job: Job) -> None:
        job.started, job.status, job.reason, job.tries = time.monotonic(), "running", "", job.tries + 1
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.log_start = job.log.stat().st_size if job.log.exists() else 0
        self._start(job)
        self.running.append(job)

    def wait(self, seconds: float) -> Job | None:
        """Wait for a job to end and return it; None if no job ends within so many seconds."""
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
            job.status, job.reason = "finished", ""
        elif code == PRUNED:
            job.status, job.reason = "pruned", ""
        elif self.stopping or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            job.status, job.reason = "interrupted", "can be resumed"
        else:
            job.status, job.reason = "failed", self._failure(job, code)

    def stop(self) -> None:
        """Ask all jobs to save a checkpoint and end. After `grace` seconds, or a second Ctrl-C, kill the others."""
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
        """The exit code of a job; None while it runs."""

    @abstractmethod
    def _failure(self, job: Job, code: int) -> str:
        """The reason why a job failed, in one line."""

    @abstractmethod
    def _ask_to_end(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...


def last_error(output: str) -> str:
    """The last error message in a job's output, or else its last line."""
    lines = [line for line in output.rpartition("Traceback (most recent")[2].splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")


def clear(folder: Path) -> None:
    """Remove the folder of a job that was killed before it wrote its config."""
    if folder.exists() and not (folder / CONFIG).exists():
        shutil.rmtree(folder)


def without_slurm() -> dict[str, str]:
    """The environment without SLURM's variables, which describe the job that the sweep itself runs in."""
    return {name: value for name, value in os.environ.items() if name[:6] != "SLURM_" or name == "SLURM_CONF"}
