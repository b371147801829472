"""The lock of a run's folder, held by another process."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.engine import lock


@contextmanager
def held_lock(folder: Path) -> Iterator[None]:
    """Another process trains in a folder. A process never finds its own lock held."""
    fork = multiprocessing.get_context("fork")
    has, end = fork.Event(), fork.Event()

    def hold() -> None:
        with lock.locked(folder):
            has.set()
            end.wait(60)

    process = fork.Process(target=hold)
    process.start()
    assert has.wait(30)
    try:
        yield
    finally:
        end.set()
        process.join()
