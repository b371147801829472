"""One process at a time trains in a run's folder. Nothing heavy is imported here."""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.display import say
from lab.errors import UserError
from lab.folder import CONFIG, LOCK, refuse_links

HELD = (errno.EACCES, errno.EAGAIN)  # the answers for a lock that another process has


@contextmanager
def alone(folder: Path, is_new: bool = False) -> Iterator[None]:
    """Be the only process that trains in a folder. What a killed one left half written is removed.

    Args:
        folder: made where it is missing.
        is_new: no run is in it yet.

    Raises:
        UserError: another process trains in it or has just made a run of it, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if (folder / LOCK).is_symlink():
            refuse_links(folder)
        raise UserError(f"error: {folder} can't be written to: {error.strerror}.") from error
    try:
        _take(descriptor, folder)
        if is_new and (folder / CONFIG).exists():
            raise UserError(
                f"error: {folder}: another process has just made a run of it. Give the same command again to resume it."
            )
        refuse_links(folder)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf: the workers of a killed run don't have it
    except OSError as error:
        if error.errno in HELD:
            raise UserError(f"error: {folder}: another process trains in it.") from error
        say(
            f"warning: {folder} can't be locked ({error.strerror}): do not start two processes in it.",
            file=sys.stderr,
        )


def is_held(folder: Path) -> bool:
    """Whether a process trains in a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # it is not there, or another user's
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in HELD
    finally:
        os.close(descriptor)
    return False


def wait_for(folder: Path, patience: float = 30.0) -> None:
    """Wait until nobody trains in a folder, who may be saving; but not for ever."""
    end = time.monotonic() + patience
    while is_held(folder) and time.monotonic() < end:
        time.sleep(0.2)
