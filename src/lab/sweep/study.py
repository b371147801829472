"""A search by Optuna (Akiba et al. 2019) in the space on the command line."""

import fcntl
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import Override, QuotedString
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import PositiveInt

from lab.allow import instantiate
from lab.callbacks.pruning import TRIAL
from lab.sweep.pool import Job, Task

BEAT, SILENCE = 10.0, 60.0  # seconds between two signs of life of a trial's owner, and without one until it is given up


class Study:
    """A study of Optuna's; its trials are the sweep's jobs, their numbers the folders'.

    A trial whose owner is gone is taken up where it stopped: none is lost, and none is tried twice.

    Args:
        trials: of the study, whoever runs them, and however often it is started.
        sampler: which point of the space comes next.
        pruner: which trials are not worth their end; `lab.callbacks.pruning` asks it after every validation.
        storage: null: a journal in the sweep's folder; sqlite:///FILE, postgresql+psycopg://…: a database's, for
            machines that share no disk.
    """

    shared = True

    def __init__(
        self,
        overrides: Sequence[Override],
        place: Path,
        monitor: DictConfig,
        trials: PositiveInt,
        sampler: Any,
        pruner: Any,
        storage: str | None = None,
        **_: Any,
    ) -> None:
        self.place, self.num_trials, self.metric = place, trials, monitor.metric
        self.pruner = OmegaConf.to_container(pruner)
        self.space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        self.fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        self.url = storage or f"journal:{place / 'study.log'}"
        self.owner = [socket.gethostname(), os.getpid()]
        self.own: dict[int, FrozenTrial] = {}
        self.beaten = 0.0
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._alone():
            self.study = optuna.create_study(
                storage=open_storage(self.url), study_name=place.name, sampler=instantiate(sampler),
                direction="maximize" if monitor.mode == "max" else "minimize", load_if_exists=True,
            )  # fmt: skip

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Count and ask in one piece: several processes at once would run a trial too many."""
        with open(self.place / ".ask.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def next(self) -> Task | None:
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            trial = next((t for t in trials if t.number not in self.own and self._is_orphan(t)), None)
            if trial is None and len(trials) >= self.num_trials:
                return None
            if trial is None:
                trial = self.study.ask(self.space)._get_latest_trial()
            self.own[trial.number] = trial
            self._beat(trial)
        words = [*self.fixed, *(f"{name}={_word(value)}" for name, value in trial.params.items())]
        return Task(trial.number, words, {TRIAL: json.dumps([self.url, self.place.name, trial.number, self.pruner])})

    def tell(self, job: Job) -> None:
        trial = self.own.pop(job.number)
        if job.status == "stopped":
            return  # it is gone on with
        if self.study.trials[trial.number].state.is_finished():
            return
        if job.status == "pruned":
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif job.value is None or not math.isfinite(job.value):
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, job.value)

    def beat(self) -> None:
        """Say that the running trials have an owner."""
        if time.time() - self.beaten > BEAT:
            self.beaten = time.time()
            for trial in self.own.values():
                self._beat(trial)

    def _beat(self, trial: FrozenTrial) -> None:
        self.study._storage.set_trial_user_attr(trial._trial_id, "owner", [*self.owner, time.time()])

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return False
        host, pid, beat = trial.user_attrs.get("owner", ["", 0, 0.0])
        if host == self.owner[0] and not _is_alive(pid):
            return True
        return time.time() - beat > SILENCE

    def finish(self) -> str:
        """Pictures of the history and of what mattered, and the best point."""
        trials = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not trials:
            return "no trial finished"
        self._draw("history", optuna.visualization.matplotlib.plot_optimization_history)
        if len(trials) > 1 and len(self.space) > 1:
            self._draw("importance", optuna.visualization.matplotlib.plot_param_importances)
        best = self.study.best_trial
        point = " ".join(f"{name}={_word(value)}" for name, value in best.params.items())
        return f"best: {self.metric} {best.value:.4f}, trial {best.number}: {point}"

    def _draw(self, name: str, plot: Callable[[optuna.Study], Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these functions are called experimental
            figure = plot(self.study).figure
        figure.savefig(self.place / f"{name}.png", dpi=150, bbox_inches="tight")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_storage(url: str) -> optuna.storages.BaseStorage | str:
    if url.startswith("journal:"):
        backend = JournalFileBackend(url.removeprefix("journal:"))
        return optuna.storages.JournalStorage(backend)
    return url


def distribution(override: Override) -> BaseDistribution:
    """Hydra's choice, range and interval, as Optuna's."""
    if override.is_choice_sweep():
        return CategoricalDistribution([_plain(value) for value in override.sweep_iterator()])
    value: Any = override.value()
    if override.is_range_sweep():
        whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
        kind = IntDistribution if whole else FloatDistribution
        last = value.start + (math.ceil((value.stop - value.start) / value.step) - 1) * value.step
        return kind(value.start, last, step=value.step)
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)


def _plain(value: Any) -> bool | int | float | str:
    """An option as Optuna stores it; a word with a structure, as it is typed."""
    if isinstance(value, QuotedString):
        return str(value.text)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
