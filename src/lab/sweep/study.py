"""A search by Optuna (Akiba et al. 2019) in the space on the command line."""

import fcntl
import json
import math
import os
import random
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import optuna
from hydra.core.override_parser.types import Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import PositiveInt

from lab.callbacks.pruning import TRIAL, open_storage
from lab.engine.config.instantiate import instantiate
from lab.engine.config.sweep_overrides import is_group, with_known_keys
from lab.engine.display import command
from lab.engine.errors import UserError, fail
from lab.engine.runs.index import read_run
from lab.sweep.launcher import Job, Task
from lab.sweep.search import Search

STATUS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
Mode = Literal["min", "max"]
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
BEAT, SILENCE = 10.0, 60.0  # seconds between two signs of life of a trial's owner, and without one until it is given up


class Study(Search):
    """A study of Optuna's; its trials are the sweep's jobs, their numbers the folders'.

    A trial whose owner is gone is taken up where it stopped: none is lost, and none is tried twice.

    Args:
        trials: of the study, whoever runs them, and however often it is started.
        sampler: which point of the space comes next.
        pruner: which trials are not worth their end; `lab.callbacks.pruning` asks it after every validation.
        objectives: beside the monitored metric; the best is a front then (Pareto's), and nothing is pruned.
        storage: null: a journal in the sweep's folder; sqlite:///FILE, postgresql+psycopg://…: a database's, for
            machines that share no disk.
    """

    shared = True

    def __init__(
        self,
        trials: PositiveInt,
        sampler: Any,
        pruner: Any,
        objectives: dict[Literal["parameters", "seconds"], Mode] | None = None,
        storage: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_trials, self.pruner = trials, pruner
        self.objectives: dict[str, Mode] = {self.monitor.metric: self.monitor.mode} | dict(objectives or {})
        self.url = storage or f"journal:{self.place / 'study.log'}"
        self.owner = [socket.gethostname(), os.getpid()]
        self.own: dict[int, FrozenTrial] = {}
        self.beaten = 0.0
        self.space = {o.get_key_element(): distribution(o) for o in self.overrides if o.is_sweep_override()}
        self.fixed = [str(o.input_line) for o in self.overrides if not o.is_sweep_override()]
        if not self.space:
            fail(["sweep=optuna: no search space. Add one, such as optimizer.lr='tag(log,interval(1e-4,1e-1))'"])
        if objectives and not pruner["_target_"].endswith("NopPruner"):
            fail(["sweep.objectives: several objectives cannot be pruned; remove sweep.pruner"])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._alone():
            self.study = self._open(sampler)

    def _open(self, sampler: Any, tries: int = 5) -> optuna.Study:
        try:
            return optuna.create_study(
                storage=open_storage(self.url), study_name=self.place.name, sampler=instantiate(sampler),
                directions=[DIRECTIONS[mode] for mode in self.objectives.values()], load_if_exists=True,
            )  # fmt: skip
        except UserError:
            raise
        except Exception as error:  # whatever a database's driver raises
            if "IntegrityError" in type(error).__name__ and tries:  # another process makes the tables right now
                time.sleep(random.uniform(0.5, 2))
                return self._open(sampler, tries - 1)
            said = f"{type(error).__name__}: {reason(error)}"
            raise UserError(f"error: sweep: the study can't be opened ({said}).") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Count and ask in one piece: several processes at once would run a trial too many."""
        with open(self.place / ".ask.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def next(self) -> Task | None:
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            orphan = next((t for t in trials if t.number not in self.own and self._is_orphan(t)), None)
            if orphan is None and len(trials) >= self.num_trials:
                return None
            trial = optuna.trial.Trial(self.study, orphan._trial_id) if orphan else self.study.ask()
            self._beat(trial._trial_id)
            self._suggest(trial)
            if trial.number >= self.num_trials:  # another machine asked at the same time
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            self.own[trial.number] = trial._get_latest_trial()
        return self._task(trial)

    def _suggest(self, trial: optuna.trial.Trial) -> None:
        """Draw groups first, then those keys that what was drawn has; one that died while it was asked has but some."""
        chosen = [f"{name}={trial._suggest(name, values)}" for name, values in self.space.items() if is_group(name)]
        others = [name for name in self.space if not is_group(name)]
        for name in with_known_keys(others, [*self.fixed, *chosen]):
            trial._suggest(name, self.space[name])

    def _task(self, trial: optuna.trial.BaseTrial | FrozenTrial) -> Task:
        drawn = {name: f"{name}={_word(value)}" for name, value in trial.params.items()}
        typed = [(o.get_key_element(), str(o.input_line), o.is_sweep_override()) for o in self.overrides]
        words = [drawn[key] if varied else line for key, line, varied in typed if not varied or key in drawn]
        own = {TRIAL: json.dumps([self.url, self.place.name, trial.number, self.pruner])}
        return Task(trial.number, words, own if len(self.objectives) == 1 else {})

    def earlier(self) -> Iterator[tuple[Task, str, float | None]]:
        for trial in self.study.get_trials(deepcopy=False)[: self.num_trials]:
            if trial.state in STATUS:
                yield self._task(trial), STATUS[trial.state], trial.values[0] if trial.values else None

    def is_over(self) -> bool:
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return all(trial.number in self.own for trial in running)

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
            run = read_run(job.folder)
            self.study.tell(trial.number, [job.value, *(run.value(name) for name in list(self.objectives)[1:])])

    def beat(self) -> None:
        """Say that the running trials have an owner."""
        if time.time() - self.beaten > BEAT:
            self.beaten = time.time()
            for trial in self.own.values():
                self._beat(trial._trial_id)

    def _beat(self, trial_id: int) -> None:
        self.study._storage.set_trial_user_attr(trial_id, "owner", [*self.owner, time.time()])

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return False
        if "owner" not in trial.user_attrs:  # another machine may be about to say so
            began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            return self.url.startswith("journal:") or time.time() - began > SILENCE
        host, pid, beat = trial.user_attrs["owner"]
        return (host == self.owner[0] and not _is_alive(pid)) or time.time() - beat > SILENCE

    def finish(self) -> str:
        """Pictures of the history and of what mattered, and the best points."""
        trials = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not trials:
            return "no trial finished"
        names = list(self.objectives)
        by: dict[str, Any] = {"target_name": names[0]}
        if len(names) > 1:
            by["target"] = lambda trial: trial.values[0]
        self._draw("history", optuna.visualization.matplotlib.plot_optimization_history, **by)
        if len(trials) > 1 and len(self.space) > 1:
            self._draw("importance", optuna.visualization.matplotlib.plot_param_importances, **by)
        if len(names) in (2, 3):
            self._draw("front", optuna.visualization.matplotlib.plot_pareto_front, target_names=names)
        return "\n".join(self._said(trial) for trial in self.study.best_trials)

    def _said(self, trial: FrozenTrial) -> str:
        point = command(*(f"{name}={_word(value)}" for name, value in trial.params.items()))
        values = ", ".join(f"{name} {value:.6g}" for name, value in zip(self.objectives, trial.values, strict=True))
        return f"best: {values}, trial {trial.number}: {point}"

    def _draw(self, name: str, plot: Callable[..., Any], **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these functions are called experimental
            figure = plot(self.study, **kwargs).figure
        figure.savefig(self.place / f"{name}.png", dpi=150, bbox_inches="tight")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def distribution(override: Override) -> BaseDistribution:
    """Hydra's choice, range and interval, as Optuna's; what is no plain value stays as it is typed.

    Raises:
        UserError: it is empty.
    """
    value: Any = override.value()
    try:
        if override.is_choice_sweep():
            typed = zip(override.sweep_iterator(), override.sweep_string_iterator(), strict=True)
            return CategoricalDistribution([v if isinstance(v, bool | int | float) else text for v, text in typed])
        if override.is_range_sweep():
            whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
            kind = IntDistribution if whole else FloatDistribution
            last = value.start + (math.ceil((value.stop - value.start) / value.step) - 1) * value.step
            return kind(value.start, last, step=value.step)
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return (IntDistribution if whole else FloatDistribution)(value.start, value.end, log="log" in value.tags)
    except ValueError as error:
        raise UserError(f"error: {override.input_line}: {reason(error)}") from error


def reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
