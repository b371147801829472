"""The ranks of a run on this machine: each reads the run's frozen config, and none outlives the others."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from lab.engine.display import say
from lab.engine.errors import PRUNED
from lab.engine.launch import rendezvous
from lab.engine.launch.environment import COMMAND, LIFELINE, num_threads
from lab.engine.launch.loopback import use_loopback

HEARTBEAT, TIMEOUT = 1.0, 30.0  # seconds between two heartbeats, and without one before a rank is killed


@contextmanager
def processes(trainer: Trainer, *arguments: str) -> Iterator[None]:
    """Start the other ranks of a distributed run as `lab ARGUMENTS…`, and end all ranks together.

    Lightning would run `sys.argv` again: in a sweep that is the whole sweep, and each rank would draw other
    hyperparameters. Ranks that torchrun or SLURM started are left alone.
    """
    rendezvous.check_world_size(trainer)
    environ, threads_before = dict(os.environ), torch.get_num_threads()
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    others: dict[socket.socket, subprocess.Popen[bytes]] = {}
    if LIFELINE in os.environ:
        use_loopback(trainer)
        line = socket.socket(fileno=int(os.environ.pop(LIFELINE)))
        _kept_open.append(line)
        _watch({line: os.getppid()}, lambda pid: (None, "the main process"))
    elif (
        trainer.world_size > 1
        and isinstance(environment, LightningEnvironment)
        and not environment.creates_processes_externally
    ):
        use_loopback(trainer)
        _describe(trainer, environment)
        others = dict(_start(rank, arguments) for rank in range(1, trainer.num_devices))
        _watch({line: process.pid for line, process in others.items()}, _ends(others))
    try:
        yield
        for process in others.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT)
    finally:
        _finished.set()
        for process in others.values():
            process.kill()
            process.wait()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(environ)
        torch.set_num_threads(threads_before)


_finished = threading.Event()
_kept_open: list[socket.socket] = []  # closed by the exit of this rank: rank 0 expects the exit within seconds


def _describe(trainer: Trainer, environment: LightningEnvironment) -> None:
    """Set the variables from which Lightning reads, in all ranks, that they are started, and their ranks."""
    os.environ.setdefault("MASTER_ADDR", environment.main_address)
    os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    if num_threads() is None:
        torch.set_num_threads(max(1, torch.get_num_threads() // trainer.num_devices))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ |= {"LOCAL_RANK": "0", "NODE_RANK": str(environment.node_rank()), "WORLD_SIZE": str(trainer.world_size)}


def _start(rank: int, arguments: tuple[str, ...]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a rank; return this end of its lifeline, and the process."""
    ours, theirs = socket.socketpair()
    environ = os.environ | {"LOCAL_RANK": str(rank), LIFELINE: str(theirs.fileno())}
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )
    theirs.close()
    return ours, process


def _ends(others: dict[socket.socket, subprocess.Popen[bytes]]) -> Callable[[int], tuple[int | None, str]]:
    """Return a function of a process id: the exit code, None if it has not ended, and the name of the rank."""
    ranks = {process.pid: (rank, process) for rank, process in enumerate(others.values(), start=1)}

    def end(pid: int) -> tuple[int | None, str]:
        rank, process = ranks[pid]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        return process.returncode, f"process {rank}"

    return end


def _watch(lines: dict[socket.socket, int], end: Callable[[int], tuple[int | None, str]]) -> None:
    """Exchange heartbeats in a thread; when a process ends or falls silent, kill the others and exit."""

    def watch() -> None:
        last: dict[socket.socket, float] = {}  # since its first heartbeat: a rank sends none while it imports
        while lines and not _finished.is_set():
            ready, _, _ = select.select(list(lines), [], [], HEARTBEAT)
            now = time.monotonic()
            for line in lines:
                with contextlib.suppress(OSError):
                    line.send(b".", socket.MSG_DONTWAIT)
            for line in ready:
                if _heartbeat(line):
                    last[line] = now
                elif (ended := end(lines.pop(line)))[0] != 0 and not _finished.is_set():
                    _stop_all(lines, *ended)
            for line in [line for line in lines if now - last.get(line, now) > TIMEOUT]:
                os.kill(pid := lines.pop(line), signal.SIGKILL)
                _stop_all(lines, None, f"{end(pid)[1]} (no heartbeat for {TIMEOUT:.0f} s)")
            if ready:
                time.sleep(HEARTBEAT)

    _finished.clear()
    threading.Thread(target=watch, daemon=True).start()


def _heartbeat(line: socket.socket) -> bool:
    """Return whether a heartbeat has arrived; the socket of an ended process is readable without one."""
    try:
        return bool(line.recv(4096))
    except ConnectionResetError:
        return False


def _stop_all(lines: dict[socket.socket, int], code: int | None, name: str) -> None:
    """Kill the other processes and exit: with the code of a requested exit, else with 1."""
    for other in lines.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM, PRUNED):  # a requested exit
        os._exit(code)
    reason = "" if code is None else f" (exit code {128 - code if code < 0 else code})"
    say(f"error: {name} ended{reason}; all other processes were stopped. Resume with run=FOLDER.", file=sys.stderr)
    os._exit(1)
