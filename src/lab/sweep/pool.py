"""The jobs of a sweep: several at a time, each a process group, forked from one that has imported everything.

Nothing of a job reaches another: not a crash, not a lack of memory, not a signal, not a global. Nothing of it outlives
the sweep's own process, however that ends.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lab.errors import PRUNED

PR_SET_PDEATHSIG = 1  # of Linux' prctl
GRACE = 15.0  # seconds from a polite signal to SIGKILL


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
    why: str = ""  # it did not finish
    value: float | None = None  # of the monitored metric, at its best
    tries: int = 0
    started: float = 0.0
    ended: float = 0.0
    pid: int = 0
    slot: int = 0
    log_start: int = 0  # bytes that earlier tries have written

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")


class Pool:
    """Runs jobs, `num_slots` at a time, each on its own share of the cores and GPUs.

    Args:
        work: what a job does, in a process of its own; returns its exit code.
        num_slots: jobs at a time.
        num_gpus: of this machine; dealt out to the slots.
    """

    def __init__(self, work: Callable[[Job], int], num_slots: int, num_gpus: int) -> None:
        self.work, self.num_slots = work, num_slots
        self.cores = _shares(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], num_slots)
        self.gpus = _shares(_visible(num_gpus), num_slots)
        self.running: list[Job] = []
        self.stopping = False

    def has_room(self) -> bool:
        return len(self.running) < self.num_slots

    def start(self, job: Job) -> None:
        job.slot = min(set(range(self.num_slots)) - {other.slot for other in self.running})
        job.started, job.status, job.why, job.tries = time.monotonic(), "running", "", job.tries + 1
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.log_start = job.log.stat().st_size if job.log.exists() else 0
        sys.stdout.flush()
        parent = os.getpid()
        job.pid = os.fork()
        if job.pid == 0:
            self._child(job, parent)
        with contextlib.suppress(OSError):  # the child does it too: whichever comes first
            os.setpgid(job.pid, job.pid)
        self.running.append(job)

    def _child(self, job: Job, parent: int) -> None:
        """Never returns: the frames of the sweep are above."""
        code = 1
        try:
            os.setpgid(0, 0)  # a Ctrl-C in the terminal goes to the sweep, which passes it on
            _die_with(parent)
            atexit._clear()
            log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1), os.dup2(log, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            if self.cores[job.slot]:
                os.sched_setaffinity(0, self.cores[job.slot])
            if self.gpus[job.slot]:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[job.slot])
            os.environ |= job.environ
            code = self.work(job)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float) -> Job | None:
        """A job that has ended; None if none does within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            for job in self.running:
                pid, status = os.waitpid(job.pid, os.WNOHANG)
                if pid:
                    self._ended(job, os.waitstatus_to_exitcode(status))
                    return job
            if time.monotonic() > end:
                return None
            time.sleep(0.02)

    def _ended(self, job: Job, code: int) -> None:
        self.running.remove(job)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.pid, signal.SIGKILL)  # what it left behind
        job.ended = time.monotonic()
        if code == 0:
            job.status = "finished"
        elif code == PRUNED:
            job.status = "pruned"
        elif self.stopping or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            job.status, job.why = "stopped", "it can go on"
        else:
            job.status, job.why = "failed", _reason(code, job)

    def stop(self) -> None:
        """Ask all jobs to save and end; those that don't in time, or at a second Ctrl-C, are killed."""
        self.stopping = True
        with contextlib.suppress(KeyboardInterrupt):
            self._ask_to_stop()
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
        while self.running:
            self.wait(1)

    def _ask_to_stop(self) -> None:
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while self.running and time.monotonic() < end:
            self.wait(0.2)


def _shares(things: list, num: int) -> list[list]:
    """`num` shares; where there are fewer things than that, several have the same one."""
    if len(things) < num:
        return [[things[i % len(things)]] if things else [] for i in range(num)]
    return [things[i::num] for i in range(num)]


def _visible(num: int) -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(num)]


def _die_with(parent: int) -> None:
    """SIGTERM when the sweep's process is gone, which is how a run is asked to save and end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _reason(code: int, job: Job) -> str:
    """Why a job failed, in a line."""
    if code < 0:
        killed = signal.Signals(-code).name
        return f"killed by {killed}" + (": was there too little memory?" if -code == signal.SIGKILL else "")
    said = job.log.read_bytes()[job.log_start :].decode(errors="replace").rpartition("Traceback (most recent")[2]
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")
