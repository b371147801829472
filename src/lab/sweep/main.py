"""`lab train -m …`: a sweep is a folder of runs. What comes next a search says; a launcher runs it.

Given again with the same `sweep.name` it goes on where it stopped: finished runs stay, one that was stopped goes on.
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
from lab.engine.folder import SWEEP, read_json, write_json
from lab.engine.keys import key_of
from lab.engine.launch.environment import slurm_job
from lab.engine.launch.rendezvous import refuse_multiple_processes
from lab.engine.launch.signals import requeue
from lab.runs import resume
from lab.sweep.board import Board
from lab.sweep.experiment import write_best
from lab.sweep.launcher import Launcher
from lab.sweep.repeats import aggregate, repeated, write_out_of_fold
from lab.sweep.search import Search

MAY_CHANGE = ("sweep.name", "sweep.jobs", "sweep.trials", "sweep.retries", "log_dir")


def main(arguments: Sequence[str]) -> int:
    """Run a sweep's jobs and say what came of them.

    Returns:
        The exit code: 1 where a job did not finish, 130 where the sweep was stopped.

    Raises:
        UserError: the sweep can't be run as asked, or another process runs it.
    """
    refuse_multiple_processes("--multirun", "a sweep")
    place, words = _place(list(get_args_parser().parse_args(list(arguments)).overrides))
    overrides = parse_overrides(words)
    cfg = _first(overrides)
    torch.set_num_threads(1)  # threads that there are do not survive the fork, and a job would wait for them
    search, launcher = _build(cfg, overrides, place, words)
    board = Board(place, search.varied, cfg)
    lock.wait_for(place)
    warned = False
    with contextlib.nullcontext() if search.shared else lock.locked(place), _interruptible():
        try:
            _run(search, launcher, board)
        except KeyboardInterrupt as error:
            warned = isinstance(error, Warned)
            if not (warned and launcher.outlived):
                _stop(search, launcher, board)
        say(*board.table())
        for part in filter(None, (aggregate(place, search.varied), search.finish())):
            say(*part.split("\n"))
        write_best(place, cfg.monitor.mode)
        if "fold" in search.varied:
            write_out_of_fold(place, search.varied)
    if warned:
        say("The job's time limit is near: SLURM starts it again, and the sweep resumes.")
        requeue()
    elif launcher.stopping or any(job.status == "stopped" for job in board.jobs.values()):
        keep = [word for word in words if key_of(word) in ("experiment", "name", "log_dir") or _is_launchers(word)]
        say(f"resume with: {command('lab', 'train', '-m', *keep, f'sweep.name={place.name}')}")
    if warned or launcher.stopping:
        return 130
    return int(any(job.status not in ("finished", "pruned") for job in board.jobs.values()))


def _build(cfg: DictConfig, overrides: Sequence[Override], place: Path, words: list[str]) -> tuple[Search, Launcher]:
    """The search and the launcher of a config; the folder remembers the words with which the sweep began."""
    from lab.engine.config.settings import wrong_settings
    from lab.engine.config.signatures import wrong_arguments
    from lab.runs.check import Settings

    new = not (place / SWEEP).exists()
    try:
        job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in GROUPS])
        problems = list(wrong_settings("train", job, Settings))
        for key in GROUPS:
            problems += wrong_arguments(key, locate(cfg[key]._target_), OmegaConf.to_container(cfg[key]))
        if problems:
            fail(problems)
        if is_repeated(cfg) and cfg.sweep._target_ != "lab.sweep.grid.Grid":
            fail(["cv, seeds: only sweep=grid repeats runs; remove sweep=optuna, or remove cv and seeds"])
        own = repeated([o for o in overrides if not sets_sweep(o)], cfg)
        launcher: Launcher = instantiate(cfg.launcher)(num_slots=cfg.sweep.jobs)
        search: Search = instantiate(cfg.sweep)(overrides=own, place=place, monitor=cfg.monitor)
    except (UserError, ImportError) as error:
        if new and not (place / SWEEP).exists():  # the name is not taken by what was refused
            shutil.rmtree(place)
        if isinstance(error, ImportError):
            fail([f"sweep: {error}. pip install 'lab[sweep]'"])
        raise
    if new:
        write_json(place / SWEEP, {"words": words, "varied": sorted(search.varied)})
    return search, launcher


def _run(search: Search, launcher: Launcher, board: Board) -> None:
    for task, status, value in search.earlier():
        old = board.add(task)
        old.status, old.value = status, value
    while True:
        while launcher.has_room() and (new_task := search.next()) is not None:
            new = board.add(new_task)
            if (value := _finished(new.folder)) is not None:  # it was run before
                new.status, new.value = "finished", value
                search.tell(new)
            else:
                launcher.start(new)
        if not launcher.running and search.is_over():
            return
        if job := launcher.wait(0.5):
            job.value = _finished(job.folder) if job.status == "finished" else None
            board.ended(job)
            if job.status == "failed" and job.tries <= search.retries:
                launcher.start(job)
            else:
                search.tell(job)
        search.beat()
        board.show(launcher.running)


def _finished(folder: Path) -> float | None:
    """Return the best value of a finished run; a job in a damaged folder fails by itself, and says why."""
    with contextlib.suppress(UserError):
        return resume.finished(folder)
    return None


def _stop(search: Search, launcher: Launcher, board: Board) -> None:
    say("", "Stopping: each job finishes its step and saves a checkpoint. Press Ctrl-C again to stop at once.")
    launcher.stop()
    for job in board.jobs.values():
        if job.status == "finished" and job.value is None:
            job.value = _finished(job.folder)
            search.tell(job)


def _place(words: list[str]) -> tuple[Path, list[str]]:
    """The sweep's folder, and its words: those with which it began, and the new ones."""
    cfg = _first(parse_overrides(words))
    if cfg.run is not None:
        fail([f"run={cfg.run}: a sweep makes a folder for each of its runs; remove run="])
    name = cfg.sweep.name or _name(words)
    place = Path(cfg.log_dir) / cfg.name / str(name)
    if not (place / SWEEP).exists():
        while place.exists() and not cfg.sweep.name:  # two began in one second
            place = place.with_name(f"{place.name}_")
        if place.exists() and any(not path.name.startswith(".") for path in place.iterdir()):
            fail([f"sweep.name={name}: {place} exists and is not a sweep; choose another name"])
        place.mkdir(parents=True, exist_ok=True)
        return place, words
    began = [word for word in read_json(place / SWEEP, "words")["words"] if not _is_launchers(word)]
    new = {key_of(word): word for word in words if word not in began}
    if changed := [w for w in new.values() if key_of(w) not in MAY_CHANGE and not _is_launchers(w)]:
        fail([f"{word}: {place} was started with {' '.join(began)}; choose another sweep.name" for word in changed])
    return place, [*(new.pop(key_of(word), word) for word in began), *new.values()]  # a grid counts in their order


def _name(words: list[str]) -> str:
    """The time; in a SLURM job the same when the job is started again."""
    if job := slurm_job():
        return f"slurm-{job}_{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _is_launchers(word: str) -> bool:
    """Whether it says where the jobs run, which each start says anew: sbatch's options are not a folder's to say."""
    return key_of(word).partition(".")[0] == "launcher"


def _first(overrides: Sequence[Override]) -> DictConfig:
    """The config of the first job, which the sweep's own settings are read from."""
    return compose_config("sweep", first_job(overrides, "sweep"))


class Warned(KeyboardInterrupt):
    """By SLURM: the time of the job that the sweep itself runs in is nearly up."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """A SIGTERM stops a sweep as Ctrl-C does, and so does SLURM's warning."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Warned if number == signal.SIGUSR1 else KeyboardInterrupt

    numbers = (signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else []))
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
