from collections.abc import Iterator
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lab.engine.config.sweep_overrides import is_group, with_known_keys
from lab.engine.errors import fail
from lab.engine.keys import key_of
from lab.sweep.launcher import Job, Task
from lab.sweep.search import Search


class Grid(Search):
    """All combinations of the values, as Hydra makes them, of keys that belong together."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        endless = [o.input_line for o in self.overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
        if endless:
            fail([f"{line}: a grid needs a list of values; sweep=optuna searches an interval" for line in endless])
        (combinations,) = BasicSweeper.split_arguments(list(self.overrides), None)
        varied = [str(o.key_or_group) for o in self.overrides if o.is_sweep_override() and not is_group(o.key_or_group)]
        jobs = dict.fromkeys(tuple(self._of_use(words, varied)) for words in combinations)
        self.tasks = (Task(number, list(words)) for number, words in enumerate(jobs))

    def _of_use(self, words: list[str], varied: list[str]) -> Iterator[str]:
        """A job's words, without the keys that what it has chosen does not have."""
        mine = [word for word in words if key_of(word) in varied]
        useful = with_known_keys(mine, [word for word in words if word not in mine])
        yield from (word for word in words if word not in mine or word in useful)

    def next(self) -> Task | None:
        return next(self.tasks, None)

    def tell(self, job: Job) -> None:
        pass
