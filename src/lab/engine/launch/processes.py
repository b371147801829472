"""The processes of a run on this machine: each has the run's own frozen config, and none outlives the others."""

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

BEAT, SILENCE = 1.0, 30.0  # seconds between two signs of life, and without one before a process is given up


@contextmanager
def processes(trainer: Trainer, *arguments: str) -> Iterator[None]:
    """Start the other processes of a distributed run as `lab ARGUMENTS…`, and see to it that all end together.

    Lightning would repeat the command line, which in a sweep is the whole sweep: each process would draw its own
    hyperparameters. Where torchrun or SLURM has started this process, it has started the others too.
    """
    rendezvous.check_world_size(trainer)
    environ, threads_before = dict(os.environ), torch.get_num_threads()
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    others: dict[socket.socket, subprocess.Popen[bytes]] = {}
    if LIFELINE in os.environ:
        use_loopback(trainer)
        line = socket.socket(fileno=int(os.environ.pop(LIFELINE)))
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
                process.wait(SILENCE)
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


def _describe(trainer: Trainer, environment: LightningEnvironment) -> None:
    """Tell Lightning, here and in the others, that the processes are there already, and which this is."""
    os.environ.setdefault("MASTER_ADDR", environment.main_address)
    os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    if num_threads() is None:
        torch.set_num_threads(max(1, torch.get_num_threads() // trainer.num_devices))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    os.environ |= {"LOCAL_RANK": "0", "NODE_RANK": str(environment.node_rank()), "WORLD_SIZE": str(trainer.world_size)}


def _start(rank: int, arguments: tuple[str, ...]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    environ = os.environ | {"LOCAL_RANK": str(rank), LIFELINE: str(theirs.fileno())}
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environ, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )
    theirs.close()
    return ours, process


def _ends(others: dict[socket.socket, subprocess.Popen[bytes]]) -> Callable[[int], tuple[int | None, str]]:
    """The exit code of a process that has ended, and its name."""
    ranks = {process.pid: (rank, process) for rank, process in enumerate(others.values(), start=1)}

    def end(pid: int) -> tuple[int | None, str]:
        rank, process = ranks[pid]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        return process.returncode, f"process {rank}"

    return end


def _watch(lines: dict[socket.socket, int], end: Callable[[int], tuple[int | None, str]]) -> None:
    """Send signs of life and listen for them; when a process is gone, end the others and this one."""

    def watch() -> None:
        heard: dict[socket.socket, float] = {}  # from the first sign on: until then it imports
        while lines and not _finished.is_set():
            ready, _, _ = select.select(list(lines), [], [], BEAT)
            now = time.monotonic()
            for line in lines:
                with contextlib.suppress(OSError):
                    line.send(b".", socket.MSG_DONTWAIT)
            for line in ready:
                if _sign(line):
                    heard[line] = now
                elif (ended := end(pid := lines.pop(line)))[0] != 0 and not _finished.is_set():
                    _give_up(lines, pid, *ended)
            for line in [line for line in lines if now - heard.get(line, now) > SILENCE]:
                os.kill(pid := lines.pop(line), signal.SIGKILL)
                _give_up(lines, pid, None, f"{end(pid)[1]} (no sign of life for {SILENCE:.0f} s)")
            if ready:
                time.sleep(BEAT)

    _finished.clear()
    threading.Thread(target=watch, daemon=True).start()


def _sign(line: socket.socket) -> bool:
    """Whether there is one; there is none from a process that is gone."""
    try:
        return bool(line.recv(4096))
    except ConnectionResetError:
        return False


def _give_up(lines: dict[socket.socket, int], pid: int, code: int | None, name: str) -> None:
    for other in lines.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM, PRUNED):  # it was asked to stop
        os._exit(code)
    how = "" if code is None else f" (exit code {128 - code if code < 0 else code})"
    say(f"error: {name} ended{how}, and all the others with it. Resume with run=FOLDER.", file=sys.stderr)
    os._exit(1)
