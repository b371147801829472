"""The strategy of a sweep: which trial runs next. `Grid` and `Study` (Optuna) are strategies."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt

from lab.sweep.launcher import Job, Trial


class Strategy(ABC):
    """Chooses the trials of a sweep, and learns their results.

    Args:
        overrides: the overrides of the command line. Those with several values span the search space.
        folder: the sweep's folder.
        monitor: the monitored metric, and whether it is minimised or maximised.
        name: the name of the sweep.
        jobs: the number of jobs that run at the same time.
        retries: how often a failed job is started again.
    """

    shared = False  # whether several processes may run the sweep at the same time

    def __init__(
        self,
        overrides: Sequence[Override],
        folder: Path,
        monitor: DictConfig,
        name: str | int | None = None,
        jobs: PositiveInt = 1,
        retries: NonNegativeInt = 0,
    ) -> None:
        self.overrides, self.folder, self.monitor = overrides, folder, monitor
        self.varied = {str(o.key_or_group) for o in overrides if o.is_sweep_override()}
        self.num_jobs, self.retries = jobs, retries

    @abstractmethod
    def next(self) -> Trial | None:
        """The next trial; None if nothing can be run now."""

    def earlier(self) -> Iterator[tuple[Trial, str, float | None]]:
        """Yield the trials that ended before this start of the sweep and are not run again: (trial, status, value)."""
        yield from ()

    @abstractmethod
    def tell(self, job: Job) -> None:
        """Learn the result of an ended job: its `status` and its `value`."""

    def beat(self) -> None:  # noqa: B027
        """Do periodic work; called about twice a second."""

    def is_over(self) -> bool:
        """Return whether no trial will follow. In a shared sweep another process may still give up a trial."""
        return True

    def finish(self) -> str:
        """Describe the best trials, in lines."""
        return ""
