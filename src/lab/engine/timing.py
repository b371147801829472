"""A stopwatch for a job: the seconds of each stage since the process started. Nothing heavy is imported here."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from lab.engine.display import say

PATIENCE = 2.0  # seconds that a stage may take without a message

laps: dict[str, float] = {}  # seconds by stage
_start = _last = time.monotonic()


def lap(name: str) -> None:
    """Store the seconds since the last lap under a name."""
    global _last
    now = time.monotonic()
    laps[name], _last = round(now - _last, 2), now


def passed() -> float:
    """The seconds since the start."""
    return round(time.monotonic() - _start, 2)


def start() -> None:
    """Start the stopwatch, unless the command line has started it."""
    if not laps:
        restart()


def restart() -> None:
    """Start the stopwatch anew, for the next job of this process."""
    global _start, _last
    laps.clear()
    _start = _last = time.monotonic()


@contextmanager
def announced(stage: str) -> Iterator[None]:
    """Print the name of a stage that takes more than two seconds, and at its end the time it took.

    On a terminal nothing is printed: it has progress bars.
    """
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
