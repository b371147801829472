from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from lab.config import fail
from lab.sweep.pool import Job, Task


class Grid:
    """All combinations of the values, as Hydra makes them."""

    shared = False

    def __init__(self, overrides: Sequence[Override], **_: Any) -> None:
        if endless := [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
            fail([f"{line}: a grid has no values for it; sweep=optuna draws them" for line in endless])
        (combinations,) = BasicSweeper.split_arguments(list(overrides), None)
        self.tasks = (Task(number, words) for number, words in enumerate(combinations))

    def next(self) -> Task | None:
        return next(self.tasks, None)

    def tell(self, job: Job) -> None:
        pass

    def beat(self) -> None:
        pass

    def finish(self) -> str:
        return ""
