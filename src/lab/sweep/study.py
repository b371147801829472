"""`sweep=optuna`: a study of Optuna (Akiba et al. 2019) over the search space on the command line."""

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
from lab.sweep.launcher import Job, Trial
from lab.sweep.strategy import Strategy

STATUS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
Mode = Literal["min", "max"]
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
BEAT = 10.0  # seconds between two heartbeats of a trial's owner
SILENCE = 60.0  # seconds without a heartbeat after which another process takes the trial over


class Study(Strategy):
    """An Optuna study. Its trials are the sweep's jobs, and a trial's number names its folder.

    If the owner of a trial (a process that runs the sweep) disappears, another process resumes the trial: no trial is
    lost and none is run twice.

    Args:
        trials: the number of trials in total, over all processes and all starts of the sweep.
        sampler: chooses the next point of the search space.
        pruner: stops trials early; `lab.callbacks.pruning` asks it after every validation.
        objectives: more objectives than the monitored metric. The result is then a Pareto front, and pruning is off.
        storage: null: a journal in the sweep's folder. The URL of a database, such as sqlite:///FILE or
            postgresql+psycopg://…, serves machines that share no disk.
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
        self.url = storage or f"journal:{self.folder / 'study.log'}"
        self.owner = [socket.gethostname(), os.getpid()]
        self.owned: dict[int, FrozenTrial] = {}  # the running trials of this process, by number
        self.last_beat = 0.0
        self.space = {o.get_key_element(): distribution(o) for o in self.overrides if o.is_sweep_override()}
        self.fixed = [str(o.input_line) for o in self.overrides if not o.is_sweep_override()]
        if not self.space:
            fail(["sweep=optuna: no search space. Add one, such as optimizer.lr='tag(log,interval(1e-4,1e-1))'"])
        if objectives and not pruner["_target_"].endswith("NopPruner"):
            fail(["sweep.objectives: trials with several objectives cannot be pruned; remove sweep.pruner"])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._locked():
            self.study = self._open(sampler)

    def _open(self, sampler: Any, tries: int = 5) -> optuna.Study:
        try:
            return optuna.create_study(
                storage=open_storage(self.url), study_name=self.folder.name, sampler=instantiate(sampler),
                directions=[DIRECTIONS[mode] for mode in self.objectives.values()], load_if_exists=True,
            )  # fmt: skip
        except UserError:
            raise
        except Exception as error:  # the errors of database drivers have no common base class
            if "IntegrityError" in type(error).__name__ and tries:  # another process is creating the tables
                time.sleep(random.uniform(0.5, 2))
                return self._open(sampler, tries - 1)
            message = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"error: sweep.storage: the study could not be opened ({message}).") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from asking for a trial meanwhile, so that no trial too many is started."""
        with open(self.folder / ".ask.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def next(self) -> Trial | None:
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            orphan = next((t for t in trials if t.number not in self.owned and self._is_orphan(t)), None)
            if orphan is None and len(trials) >= self.num_trials:
                return None
            trial = optuna.trial.Trial(self.study, orphan._trial_id) if orphan else self.study.ask()
            self._beat(trial._trial_id)
            self._suggest(trial)
            if trial.number >= self.num_trials:  # another machine asked at the same time
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            self.owned[trial.number] = trial._get_latest_trial()
        return self._trial(trial)

    def _suggest(self, trial: optuna.trial.Trial) -> None:
        """Draw the config groups first, then the keys that the drawn groups have. An orphan may lack some values."""
        chosen = [f"{name}={trial._suggest(name, values)}" for name, values in self.space.items() if is_group(name)]
        others = [name for name in self.space if not is_group(name)]
        for name in with_known_keys(others, [*self.fixed, *chosen]):
            trial._suggest(name, self.space[name])

    def _trial(self, trial: optuna.trial.BaseTrial | FrozenTrial) -> Trial:
        """The overrides of an Optuna trial, and for the pruner the environment variable that names the trial."""
        drawn = {name: f"{name}={_word(value)}" for name, value in trial.params.items()}
        typed = [(o.get_key_element(), str(o.input_line), o.is_sweep_override()) for o in self.overrides]
        words = [drawn[key] if varied else line for key, line, varied in typed if not varied or key in drawn]
        environ = {TRIAL: json.dumps([self.url, self.folder.name, trial.number, self.pruner])}
        return Trial(trial.number, words, environ if len(self.objectives) == 1 else {})

    def earlier(self) -> Iterator[tuple[Trial, str, float | None]]:
        for trial in self.study.get_trials(deepcopy=False)[: self.num_trials]:
            if trial.state in STATUS:
                yield self._trial(trial), STATUS[trial.state], trial.values[0] if trial.values else None

    def is_over(self) -> bool:
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return all(trial.number in self.owned for trial in running)

    def tell(self, job: Job) -> None:
        trial = self.owned.pop(job.number)
        if job.status == "interrupted":
            return  # it is resumed later
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
        """Send the heartbeat of the running trials."""
        if time.time() - self.last_beat > BEAT:
            self.last_beat = time.time()
            for trial in self.owned.values():
                self._beat(trial._trial_id)

    def _beat(self, trial_id: int) -> None:
        self.study._storage.set_trial_user_attr(trial_id, "owner", [*self.owner, time.time()])

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Return whether a running trial has lost its owner."""
        if trial.state != TrialState.RUNNING:
            return False
        if "owner" not in trial.user_attrs:  # another machine may be about to write it
            start = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            return self.url.startswith("journal:") or time.time() - start > SILENCE
        host, pid, beat = trial.user_attrs["owner"]
        return (host == self.owner[0] and not _is_alive(pid)) or time.time() - beat > SILENCE

    def finish(self) -> str:
        """Draw the history, the importance of each hyperparameter and the Pareto front; describe the best trials."""
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
        return "\n".join(self._description(trial) for trial in self.study.best_trials)

    def _description(self, trial: FrozenTrial) -> str:
        point = command(*(f"{name}={_word(value)}" for name, value in trial.params.items()))
        values = ", ".join(f"{name} {value:.6g}" for name, value in zip(self.objectives, trial.values, strict=True))
        return f"best: {values}, trial {trial.number}: {point}"

    def _draw(self, name: str, plot: Callable[..., Any], **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls these functions experimental
            figure = plot(self.study, **kwargs).figure
        figure.savefig(self.folder / f"{name}.png", dpi=150, bbox_inches="tight")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def distribution(override: Override) -> BaseDistribution:
    """Hydra's choice, range or interval as a distribution of Optuna. Lists and objects stay text, as they were typed.

    Raises:
        UserError: it has no values.
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
        raise UserError(f"error: {override.input_line}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
