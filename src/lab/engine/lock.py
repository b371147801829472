"""The lock of a run's folder: one process at a time trains in it. Nothing heavy is imported here."""

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

HELD = (errno.EACCES, errno.EAGAIN)  # the errors for a lock that another process holds
FLOCK = {"linux": ("hhqqi", 0), "darwin": ("qqihh", 3)}  # the layout of C's struct flock, and the index of l_type


@contextmanager
def locked(folder: Path, is_new: bool = False) -> Iterator[None]:
    """Lock a folder for training, and remove temporary files of a killed process.

    Args:
        folder: the run's folder; it is made if it is missing.
        is_new: the folder must not hold a run yet.

    Raises:
        UserError: another process trains in the folder or has just made a run there, or the folder is not writable.
    """
    with held(folder):
        if is_new and (folder / CONFIG).exists():
            raise UserError(
                f"error: {folder}: another process has just started a run there. Repeat the command to resume it."
            )
        refuse_links(folder)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


@contextmanager
def held(folder: Path, strict: bool = False) -> Iterator[None]:
    """Hold the lock of any folder.

    Args:
        folder: the folder; it is made if it is missing.
        strict: refuse a file system without locks, instead of warning.

    Raises:
        UserError: another process holds the lock or has just removed the folder, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if (folder / LOCK).is_symlink():
            refuse_links(folder)
        raise UserError(f"error: {folder} is not writable: {error.strerror}.") from error
    try:
        _take(descriptor, folder, strict)
        if not (folder / LOCK).exists() or not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
            raise UserError(f"error: {folder}: another process has just removed or moved it. Repeat the command.")
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, strict: bool) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not inherit it, unlike flock's
    except OSError as error:
        if error.errno in HELD:
            raise UserError(f"error: another process is training in {folder}. Wait for it, or stop it.") from error
        problem = f"{folder} cannot be locked ({error.strerror})"
        if strict:
            raise UserError(f"error: {problem}, so a process may be training in it.") from error
        say(f"warning: {problem}. Do not start two processes in it.", file=sys.stderr)


def is_held(folder: Path) -> bool | None:
    """Return whether a process trains in a folder; None if this is unknown. The lock is not taken."""
    if sys.platform not in FLOCK:
        return None
    layout, type_index = FLOCK[sys.platform]
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # a file of another user, or a link
        return None
    query = [0] * (layout.count("h") + layout.count("q") + layout.count("i"))
    query[type_index] = fcntl.F_WRLCK  # for the whole file: start 0, length 0
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(f"{layout}0q", *query))
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return bool(struct.unpack(f"{layout}0q", answer)[type_index] != fcntl.F_UNLCK)


def wait_for(folder: Path, patience: float = 30.0) -> None:
    """Wait up to `patience` seconds until no process trains in a folder: a stopped process may still be saving."""
    end = time.monotonic() + patience
    while is_held(folder) and time.monotonic() < end:
        time.sleep(0.2)
