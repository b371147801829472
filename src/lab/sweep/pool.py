"""`launcher=local`: the jobs run on this machine, each in a process group forked from the sweep's process.

The sweep's process has imported what the jobs use, so a job starts fast. Jobs are isolated from each other: a crash, a
signal, an out-of-memory error or a changed global affects one job. No job outlives the sweep's process.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

import torch
from omegaconf import DictConfig

from lab import train
from lab.engine import cli, lock, timing
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.launch.environment import num_threads
from lab.sweep.launcher import Job, Launcher, clear, last_error, without_slurm

PR_SET_PDEATHSIG = 1  # of Linux' prctl


def _train(job: Job) -> int:
    """Train a job in the current process; return its exit code."""

    def work() -> None:
        timing.restart()
        if num_threads() is None and hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        lock.wait_for(job.folder)  # the job of an earlier start may still be saving
        clear(job.folder)
        train.main(compose_config("train", add_run_overrides(job.words)))

    return cli.exit_code(work)


class Pool(Launcher):
    """Runs jobs on this machine. The cores and GPUs are divided among them.

    Args:
        num_slots: the number of jobs that run at the same time.
        work: what the process of a job does; it returns the exit code.
        num_gpus: the number of GPUs to divide; None: all.
    """

    grace, period = 15.0, 0.02

    def __init__(self, num_slots: int, work: Callable[[Job], int] = _train, num_gpus: int | None = None) -> None:
        super().__init__(num_slots)
        self.work = work
        self.cores = _shares(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [], num_slots)
        self.gpus = _shares(_visible(torch.cuda.device_count() if num_gpus is None else num_gpus), num_slots)

    def prepare(self, cfg: DictConfig) -> None:
        """Import the modules of lab that the jobs use: a job is forked, and imports none of them again."""
        modules = [str(cfg[key]._target_).rpartition(".")[0] for key in ("data", "net", "task")]
        for name in [*modules, *(["lab.figures.page"] if cfg.figures else [])]:
            if name.startswith("lab."):
                with contextlib.suppress(ImportError):  # of an optional package, which the job reports
                    import_module(name)

    def _start(self, job: Job) -> None:
        job.slot = min(set(range(self.num_slots)) - {other.slot for other in self.running})
        sys.stdout.flush()
        parent = os.getpid()
        job.id = os.fork()
        if job.id == 0:
            self._child(job, parent)
        with contextlib.suppress(OSError):  # the child does this too, as either may be first
            os.setpgid(job.id, job.id)

    def _child(self, job: Job, parent: int) -> None:
        """Run the job in the forked process and exit: the frames of the sweep must not continue here."""
        code = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C in the terminal reaches the sweep only, which forwards it
            _stop_with(parent)
            atexit._clear()
            log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1), os.dup2(log, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # SLURM warns the sweep, which forwards it
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
            os.killpg(job.id, signal.SIGKILL)  # processes that the job left behind
        return os.waitstatus_to_exitcode(status)

    def _failure(self, job: Job, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}" + (", perhaps out of memory" if -code == signal.SIGKILL else "")
        return last_error(job.output()) or f"exit code {code}"

    def _ask_to_end(self) -> None:
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.id, signal.SIGTERM)

    def _kill(self) -> None:
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.id, signal.SIGKILL)


def _shares(devices: list, num: int) -> list[list]:
    """Divide cores or GPUs into `num` shares. If there are fewer than `num`, several shares hold the same device."""
    if len(devices) < num:
        return [[devices[i % len(devices)]] if devices else [] for i in range(num)]
    return [devices[i::num] for i in range(num)]


def _visible(num: int) -> list[str]:
    """The IDs of the GPUs, as `CUDA_VISIBLE_DEVICES` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(num)]


def _stop_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the sweep's process ends. The run then saves a checkpoint and ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
