"""`lab train -m …`: a sweep is a folder of runs. A strategy chooses the next trial, and a launcher runs it as a job.

The same command with the same `sweep.name` resumes the sweep: finished runs stay, and stopped runs are resumed.
"""

import contextlib
import hashlib
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

import torch
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lab.engine import lock
from lab.engine.config.allow import locate
from lab.engine.config.compose import compose_config
from lab.engine.config.instantiate import instantiate
from lab.engine.config.sweep_overrides import GROUPS, first_job, is_repeated, parse_overrides, sets_sweep
from lab.engine.display import command, say
from lab.engine.errors import UserError, fail
from lab.engine.files import read_json, write_json
from lab.engine.folder import SWEEP
from lab.engine.keys import key_of
from lab.engine.launch.environment import slurm_job
from lab.engine.launch.rendezvous import refuse_multiple_processes
from lab.engine.launch.signals import requeue
from lab.runs import resume
from lab.sweep.best_yaml import write_best
from lab.sweep.board import Board
from lab.sweep.launcher import Launcher
from lab.sweep.repeats import aggregate, repeated, write_out_of_fold
from lab.sweep.strategy import Strategy

MAY_CHANGE = ("sweep.name", "sweep.jobs", "sweep.trials", "sweep.retries", "log_dir")


def main(arguments: Sequence[str]) -> int:
    """Run the jobs of a sweep, and print their results.

    Returns:
        The exit code: 1 if a job did not finish, 130 if the sweep was stopped.

    Raises:
        UserError: the arguments are invalid, or another process runs the sweep.
    """
    refuse_multiple_processes("--multirun", "a sweep")
    folder, words = folder_and_words(list(get_args_parser().parse_args(list(arguments)).overrides))
    overrides = parse_overrides(words)
    cfg = _first_config(overrides)
    torch.set_num_threads(1)  # a forked job would wait for threads that exist before the fork only
    strategy, launcher = _build(cfg, overrides, folder, words)
    launcher.prepare(cfg)
    board = Board(folder, strategy.varied, cfg)
    lock.wait_for(folder)
    near_limit = False
    with contextlib.nullcontext() if strategy.shared else lock.locked(folder), _interruptible():
        try:
            _run(strategy, launcher, board)
        except KeyboardInterrupt as error:
            near_limit = isinstance(error, NearTimeLimit)
            if not (near_limit and launcher.jobs_survive):
                _stop(strategy, launcher, board)
        say(*board.summary())
        for part in filter(None, (aggregate(folder, strategy.varied), strategy.finish())):
            say(*part.split("\n"))
        write_best(folder, cfg.monitor.mode)
        if "fold" in strategy.varied:
            write_out_of_fold(folder, strategy.varied)
    if near_limit:
        say("The job's time limit is near: SLURM starts it again, and the sweep resumes.")
        requeue()
    elif launcher.stopping or any(job.status == "interrupted" for job in board.jobs.values()):
        kept = [word for word in words if key_of(word) in ("experiment", "name", "log_dir") or _is_of_launcher(word)]
        say(f"resume with: {command('lab', 'train', '-m', *kept, f'sweep.name={folder.name}')}")
    if near_limit or launcher.stopping:
        return 130
    return int(any(job.status not in ("finished", "pruned") for job in board.jobs.values()))


def _build(cfg: DictConfig, overrides: Sequence[Override], folder: Path, words: list[str]) -> tuple[Strategy, Launcher]:
    """The strategy and the launcher of a config. The overrides of a new sweep are stored in its folder."""
    from lab.engine.config.settings import wrong_settings
    from lab.engine.config.signatures import wrong_arguments
    from lab.runs.check import Settings

    is_new = not (folder / SWEEP).exists()
    try:
        of_job = [override for override in overrides if not sets_sweep(override)]
        problems = list(wrong_settings("train", compose_config("train", first_job(of_job)), Settings))
        for key in GROUPS:
            problems += wrong_arguments(key, locate(cfg[key]._target_), OmegaConf.to_container(cfg[key]))
        if problems:
            fail(problems)
        if is_repeated(cfg) and cfg.sweep._target_ != "lab.sweep.grid.Grid":
            fail(["cv, seeds: only sweep=grid repeats runs; remove sweep=optuna, or remove cv and seeds"])
        of_jobs = repeated(of_job, cfg)
        launcher: Launcher = instantiate(cfg.launcher)(num_slots=cfg.sweep.jobs)
        strategy: Strategy = instantiate(cfg.sweep)(overrides=of_jobs, folder=folder, monitor=cfg.monitor)
    except (UserError, ImportError) as error:
        if is_new and not (folder / SWEEP).exists():  # a refused sweep leaves no folder behind
            shutil.rmtree(folder)
        if isinstance(error, ImportError):
            fail([f"sweep: {error}. pip install 'lab-template[sweep]'"])
        raise
    if is_new:
        write_json(folder / SWEEP, {"words": words, "varied": sorted(strategy.varied)})
    return strategy, launcher


def _run(strategy: Strategy, launcher: Launcher, board: Board) -> None:
    """Start trials whenever a slot is free, until the strategy has no more."""
    for trial, status, value in strategy.earlier():
        old = board.add(trial)
        old.status, old.value = status, value
    while True:
        while launcher.has_room() and (new_trial := strategy.next()) is not None:
            new = board.add(new_trial)
            if (value := finished_value(new.folder)) is not None:  # an earlier start of the sweep has finished it
                new.status, new.value = "finished", value
                strategy.tell(new)
            else:
                launcher.start(new)
        if not launcher.running and strategy.is_over():
            return
        if job := launcher.wait(0.5):
            job.value = finished_value(job.folder) if job.status == "finished" else None
            board.ended(job)
            if job.status == "failed" and job.tries <= strategy.retries:
                launcher.start(job)
            else:
                strategy.tell(job)
        strategy.beat()
        board.show(launcher.running)


def finished_value(folder: Path) -> float | None:
    """The best value of a finished run, or None; None also for a damaged folder, whose job then fails by itself."""
    with contextlib.suppress(UserError):
        return resume.best_value(folder)
    return None


def _stop(strategy: Strategy, launcher: Launcher, board: Board) -> None:
    say("", "Stopping: each job finishes its step and saves a checkpoint. Press Ctrl-C again to stop at once.")
    launcher.stop()
    for job in board.jobs.values():
        if job.status == "finished" and job.value is None:
            job.value = finished_value(job.folder)
            strategy.tell(job)


def folder_and_words(words: list[str]) -> tuple[Path, list[str]]:
    """The folder of a sweep, and its overrides: the stored ones of an earlier start, then the new ones.

    Raises:
        UserError: the folder holds something else, or an override differs from that of the earlier start.
    """
    cfg = _first_config(parse_overrides(words))
    if cfg.run is not None:
        fail([f"run={cfg.run}: a sweep makes a folder for each of its runs; remove run="])
    name = cfg.sweep.name or _default_name(words)
    folder = Path(cfg.log_dir) / cfg.name / str(name)
    if not (folder / SWEEP).exists():
        while folder.exists() and not cfg.sweep.name:  # another sweep started in the same second
            folder = folder.with_name(f"{folder.name}_")
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            fail([f"sweep.name={name}: {folder} exists and is not a sweep; choose another name"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder, words
    stored = [word for word in read_json(folder / SWEEP, "words")["words"] if not _is_of_launcher(word)]
    new = {key_of(word): word for word in words if word not in stored}
    if changed := [w for w in new.values() if key_of(w) not in MAY_CHANGE and not _is_of_launcher(w)]:
        fail([f"{word}: {folder} was started with {' '.join(stored)}; choose another sweep.name" for word in changed])
    return folder, [*(new.pop(key_of(word), word) for word in stored), *new.values()]  # the order numbers a grid's jobs


def _default_name(words: list[str]) -> str:
    """The current time; in a SLURM job a name that stays the same when the job is started again."""
    if job := slurm_job():
        return f"slurm-{job}_{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _is_of_launcher(word: str) -> bool:
    """Return whether an override sets the launcher. Each start sets it anew: a folder must not set sbatch's options."""
    return key_of(word).partition(".")[0] == "launcher"


def _first_config(overrides: Sequence[Override]) -> DictConfig:
    """The config of the first job. Its groups `sweep` and `launcher` are the settings of the sweep."""
    return compose_config("sweep", first_job(overrides, "sweep"))


class NearTimeLimit(KeyboardInterrupt):
    """SLURM warns that the time limit of the sweep's own job is near."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, and SLURM's warning, stop the sweep like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise NearTimeLimit if number == signal.SIGUSR1 else KeyboardInterrupt

    numbers = (signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else []))
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
