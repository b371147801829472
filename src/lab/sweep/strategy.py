from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt

from lab.sweep.launcher import Job, Task


class Search(ABC):
    """What a sweep runs next, and what came of it.

    Args:
        overrides: of the command line; those with several values are the space.
        place: the sweep's folder.
        monitor: the metric, and whether it is to be small or large.
        name: the sweep's.
        jobs: at a time.
        retries: of a job that failed.
    """

    shared = False  # several processes may run the sweep at once

    def __init__(
        self,
        overrides: Sequence[Override],
        place: Path,
        monitor: DictConfig,
        name: str | int | None = None,
        jobs: PositiveInt = 1,
        retries: NonNegativeInt = 0,
    ) -> None:
        self.overrides, self.place, self.monitor = overrides, place, monitor
        self.varied = {str(o.key_or_group) for o in overrides if o.is_sweep_override()}
        self.num_jobs, self.retries = jobs, retries

    @abstractmethod
    def next(self) -> Task | None:
        """None: there is nothing to run now."""

    def earlier(self) -> Iterator[tuple[Task, str, float | None]]:
        """What has ended before the sweep was started this time and is not run again; its status, its value."""
        yield from ()

    @abstractmethod
    def tell(self, job: Job) -> None:
        """A job has ended, as its `status` says, with its `value`."""

    def beat(self) -> None:  # noqa: B027
        """Called about twice a second."""

    def is_over(self) -> bool:
        """Whether there will be nothing to run: another process may still give up what it runs."""
        return True

    def finish(self) -> str:
        """What was found, in words."""
        return ""
