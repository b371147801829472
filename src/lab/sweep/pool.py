"""The jobs of a sweep on this machine: each a process group, forked from a process that has imported everything.

Nothing of a job reaches another: not a crash, not a lack of memory, not a signal, not a global. Nothing of it outlives
the sweep's own process, however that ends.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

import torch

from lab import train
from lab.engine import cli, lock, timing
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.launch.environment import num_threads
from lab.sweep.launcher import Job, Launcher, clear, last_error, without_slurm

PR_SET_PDEATHSIG = 1  # of Linux' prctl


def _fit(job: Job) -> int:
    """What a job does, in its own process; returns its exit code."""

    def work() -> None:
        timing.restart()
        if num_threads() is None and hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        lock.wait_for(job.folder)  # whoever ran the sweep before may still be saving
        clear(job.folder)
        train.main(compose_config("train", add_run_overrides(job.words)))

    return cli.exit_code(work)


class Pool(Launcher):
    """Each job has its own share of the cores and GPUs.

    Args:
        num_slots: jobs at a time.
        work: what a job does, in a process of its own; returns its exit code.
        num_gpus: of this machine; dealt out to the slots.
    """

    grace, period = 15.0, 0.02

    def __init__(self, num_slots: int, work: Callable[[Job], int] = _fit, num_gpus: int | None = None) -> None:
        super().__init__(num_slots)
        self.work = work
        self.cores = _shares(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], num_slots)
        self.gpus = _shares(_visible(torch.cuda.device_count() if num_gpus is None else num_gpus), num_slots)

    def _start(self, job: Job) -> None:
        job.slot = min(set(range(self.num_slots)) - {other.slot for other in self.running})
        sys.stdout.flush()
        parent = os.getpid()
        job.id = os.fork()
        if job.id == 0:
            self._child(job, parent)
        with contextlib.suppress(OSError):  # the child does it too: whichever comes first
            os.setpgid(job.id, job.id)

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
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # SLURM's warning to the sweep, which passes it on
            if self.cores[job.slot]:
                os.sched_setaffinity(0, self.cores[job.slot])
            environ = without_slurm() | job.environ
            if self.gpus[job.slot]:
                environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus[job.slot])
            os.environ.clear()
            os.environ |= environ
            code = self.work(job)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def _exit_code(self, job: Job) -> int | None:
        pid, status = os.waitpid(job.id, os.WNOHANG)
        if not pid:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.id, signal.SIGKILL)  # what it left behind
        return os.waitstatus_to_exitcode(status)

    def _reason(self, job: Job, code: int) -> str:
        if code < 0:
            killed = signal.Signals(-code).name
            return f"killed by {killed}" + (": was there too little memory?" if -code == signal.SIGKILL else "")
        return last_error(job.said()) or f"exit code {code}"

    def _ask_to_end(self) -> None:
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.id, signal.SIGTERM)

    def _kill(self) -> None:
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.id, signal.SIGKILL)


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
