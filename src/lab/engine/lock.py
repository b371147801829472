"""One process at a time trains in a run's folder. Nothing heavy is imported here."""

import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.engine.display import say
from lab.engine.errors import UserError
from lab.engine.folder import CONFIG, LOCK, refuse_links

HELD = (errno.EACCES, errno.EAGAIN)  # the answers for a lock that another process has
FLOCK = {"linux": ("hhqqi", 0), "darwin": ("qqihh", 3)}  # C's struct flock, and where its l_type is


@contextmanager
def locked(folder: Path, is_new: bool = False) -> Iterator[None]:
    """Be the only process that trains in a folder. What a killed one left half written is removed.

    Args:
        folder: made where it is missing.
        is_new: no run is in it yet.

    Raises:
        UserError: another process trains in it or has just made a run of it, or it can't be written to.
    """
    with held(folder):
        if is_new and (folder / CONFIG).exists():
            raise UserError(
                f"error: {folder}: another process has just made a run of it. Give the same command again to resume it."
            )
        refuse_links(folder)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


@contextmanager
def held(folder: Path, sure: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, whatever is in it.

    Args:
        folder: made where it is missing.
        sure: refuse a file system without locks, where others only warn.

    Raises:
        UserError: another process holds it, or has just removed the folder, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if (folder / LOCK).is_symlink():
            refuse_links(folder)
        raise UserError(f"error: {folder} can't be written to: {error.strerror}.") from error
    try:
        _take(descriptor, folder, sure)
        if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
            raise UserError(f"error: {folder}: another process has just removed or moved it.")
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, sure: bool) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf: the workers of a killed run don't have it
    except OSError as error:
        if error.errno in HELD:
            raise UserError(f"error: another process is training in {folder}.") from error
        problem = f"{folder} can't be locked ({error.strerror})"
        if sure:
            raise UserError(f"error: {problem}: a process may be training in it.") from error
        say(f"warning: {problem}: do not start two processes in it.", file=sys.stderr)


def is_held(folder: Path) -> bool | None:
    """Return whether a process trains in a folder; None where that can't be known. The lock is not taken."""
    if sys.platform not in FLOCK:
        return None
    layout, place = FLOCK[sys.platform]
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # another user's, or a link
        return None
    wanted = [0] * (layout.count("h") + layout.count("q") + layout.count("i"))
    wanted[place] = fcntl.F_WRLCK  # of the whole file: it starts at 0 and has no end
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(f"{layout}0q", *wanted))
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return bool(struct.unpack(f"{layout}0q", answer)[place] != fcntl.F_UNLCK)


def wait_for(folder: Path, patience: float = 30.0) -> None:
    """Wait until no process trains in a folder, which may be saving; but not for ever."""
    end = time.monotonic() + patience
    while is_held(folder) and time.monotonic() < end:
        time.sleep(0.2)
