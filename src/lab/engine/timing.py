"""Where a job's time goes: the laps of a stopwatch that starts at the keystroke. Nothing heavy is imported here."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from lab.engine.display import say

PATIENCE = 2.0  # seconds that a stage may take without a word

laps: dict[str, float] = {}
_start = _last = time.monotonic()


def lap(name: str) -> None:
    """Name the seconds since the lap before."""
    global _last
    now = time.monotonic()
    laps[name], _last = round(now - _last, 2), now


def passed() -> float:
    """Seconds since the start."""
    return round(time.monotonic() - _start, 2)


def start() -> None:
    """A job begins, if it has not: outside the command line no keystroke did."""
    if not laps:
        restart()


def restart() -> None:
    """Another job begins in this process, as a sweep's do."""
    global _start, _last
    laps.clear()
    _start = _last = time.monotonic()


@contextmanager
def announced(stage: str) -> Iterator[None]:
    """Say what takes more than two seconds, and in the end how long it took; not on a terminal, which has bars."""
    if sys.stdout.isatty() or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    begin = time.monotonic()
    timer = Timer(PATIENCE, lambda: say(f"{stage} ..."))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if (passed := time.monotonic() - begin) >= PATIENCE:
        say(f"{stage}: {passed:.0f} s")
