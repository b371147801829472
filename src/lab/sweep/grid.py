from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lab.config import fail
from lab.sweep.launcher import Job, Task
from lab.sweep.search import Search


class Grid(Search):
    """All combinations of the values, as Hydra makes them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        endless = [o.input_line for o in self.overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
        if endless:
            fail([f"{line}: a grid has no values for it; sweep=optuna draws them" for line in endless])
        (combinations,) = BasicSweeper.split_arguments(list(self.overrides), None)
        self.tasks = (Task(number, words) for number, words in enumerate(combinations))

    def next(self) -> Task | None:
        return next(self.tasks, None)

    def tell(self, job: Job) -> None:
        pass
