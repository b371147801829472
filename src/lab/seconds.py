"""Where a job's time goes: the laps of a stopwatch that starts at the keystroke. Nothing heavy is imported here."""

import time

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
