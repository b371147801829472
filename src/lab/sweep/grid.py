"""`sweep=grid`: every combination of the values."""

from collections.abc import Iterator
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lab.engine.config.sweep_overrides import is_group, with_known_keys
from lab.engine.errors import fail
from lab.engine.keys import key_of
from lab.sweep.launcher import Job, Trial
from lab.sweep.strategy import Strategy


class Grid(Strategy):
    """All combinations of the values, in Hydra's order. A combination drops keys that its chosen groups do not have."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        endless = [o.input_line for o in self.overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
        if endless:
            fail([f"{line}: a grid needs a list of values; sweep=optuna searches an interval" for line in endless])
        (combinations,) = BasicSweeper.split_arguments(list(self.overrides), None)
        varied = [str(o.key_or_group) for o in self.overrides if o.is_sweep_override() and not is_group(o.key_or_group)]
        trials = dict.fromkeys(tuple(self._without_unused(words, varied)) for words in combinations)
        self.trials = (Trial(number, list(words)) for number, words in enumerate(trials))

    def _without_unused(self, words: list[str], varied: list[str]) -> Iterator[str]:
        """Yield a trial's overrides, without varied keys that its chosen groups do not have."""
        mine = [word for word in words if key_of(word) in varied]
        used = with_known_keys(mine, [word for word in words if word not in mine])
        yield from (word for word in words if word not in mine or word in used)

    def next(self) -> Trial | None:
        return next(self.trials, None)

    def tell(self, job: Job) -> None:
        pass
