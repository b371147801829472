"""`lab train -m …`: a sweep is a folder of runs. What comes next a search says; the pool runs it.

Given again with the same `sweep.name` it goes on where it stopped: finished runs stay, one that was stopped goes on.
All that a job needs is imported here, once: jobs are forked.
"""

import contextlib
import hashlib
import json
import os
import shlex
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

from lab import cli, config, resume, seconds, train
from lab.allow import instantiate, locate
from lab.errors import UserError
from lab.external import refuse_several
from lab.folder import CONFIG, SWEEP, read_json, write_json
from lab.stop import slurm_job
from lab.sweep.board import Board
from lab.sweep.experiment import write_best
from lab.sweep.pool import Job, Pool
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
    refuse_several("--multirun", "a sweep")
    place, words = _place(list(get_args_parser().parse_args(list(arguments)).overrides))
    overrides = config.parsed(words)
    cfg = _first(overrides)
    torch.set_num_threads(1)  # threads that there are do not survive the fork, and a job would wait for them
    search = _search(cfg, overrides, place, words)
    varied = search.varied
    board = Board(place, varied, cfg)
    resume.wait_for(place)
    with contextlib.nullcontext() if search.shared else resume.alone(place), _interruptible():
        pool = Pool(_train, search.num_jobs, torch.cuda.device_count())
        try:
            _run(search, pool, board)
        except KeyboardInterrupt:
            print("\nStopping: each job finishes its step and saves; once more stops at once.", flush=True)
            pool.stop()
            for job in board.jobs.values():
                if job.status == "finished" and job.value is None:
                    job.value = resume.finished(job.folder, {})
                    search.tell(job)
        print(*filter(None, (board.table(), aggregate(place, varied), search.finish())), sep="\n")
        write_best(place, cfg.monitor.mode)
        if "fold" in varied:
            write_out_of_fold(place, varied)
    if pool.stopping or any(job.status == "stopped" for job in board.jobs.values()):
        keep = [word for word in words if word.partition("=")[0] in ("experiment", "name", "log_dir")]
        print("go on with:", shlex.join(["lab", "train", "-m", *keep, f"sweep.name={place.name}"]))
    if pool.stopping:
        return 130
    return int(any(job.status not in ("finished", "pruned") for job in board.jobs.values()))


def _search(cfg: DictConfig, overrides: Sequence[Override], place: Path, words: list[str]) -> Search:
    """The search of a config; its folder remembers the words with which it began."""
    from lab.check import wrong_arguments

    new = not (place / SWEEP).exists()
    try:
        problems = list(wrong_arguments("sweep", locate(cfg.sweep._target_), OmegaConf.to_container(cfg.sweep)))
        if problems:
            config.fail(problems)
        if config.repeats(cfg) and cfg.sweep._target_ != "lab.sweep.grid.Grid":
            config.fail(["cv, seeds: a grid repeats runs; leave out sweep=optuna, or them"])
        own = repeated([override for override in overrides if not _is_sweeps(override)], cfg)
        search: Search = instantiate(cfg.sweep)(overrides=own, place=place, monitor=cfg.monitor)
    except (UserError, ImportError) as error:
        if new and not (place / SWEEP).exists():  # the name is not taken by what was refused
            shutil.rmtree(place)
        if isinstance(error, ImportError):
            config.fail([f"sweep: {error}. pip install 'lab[sweep]'"])
        raise
    if new:
        write_json(place / SWEEP, {"words": words, "varied": sorted(search.varied)})
    return search


def _run(search: Search, pool: Pool, board: Board) -> None:
    for task, status, value in search.earlier():
        old = board.add(task)
        old.status, old.value = status, value
    while True:
        while pool.has_room() and (new_task := search.next()) is not None:
            new = board.add(new_task)
            if (value := resume.finished(new.folder, {})) is not None:  # it was run before
                new.status, new.value = "finished", value
                search.tell(new)
            else:
                pool.start(new)
        if not pool.running and search.is_over():
            return
        if job := pool.wait(0.5):
            job.value = resume.finished(job.folder, {}) if job.status == "finished" else None
            board.ended(job)
            if job.status == "failed" and job.tries <= search.retries:
                pool.start(job)
            else:
                search.tell(job)
        search.beat()
        board.show(pool.running)


def _train(job: Job) -> int:
    """What a job does, in its own process."""

    def work() -> None:
        seconds.restart()
        if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        resume.wait_for(job.folder)  # whoever ran the sweep before may still be saving
        if job.folder.exists() and not (job.folder / CONFIG).exists():
            shutil.rmtree(job.folder)  # it was killed before it was a run
        words = config.with_the_runs_own([*job.overrides, f"run={job.folder}"])
        train.main(config.compose("train", words))

    return cli.exit_code(work)


def _place(words: list[str]) -> tuple[Path, list[str]]:
    """The sweep's folder, and its words: those with which it began, and the new ones."""
    cfg = _first(config.parsed(words))
    if cfg.run is not None:
        config.fail([f"run={cfg.run}: a sweep makes a folder for each of its runs; leave it out"])
    name = cfg.sweep.name or _name(words)
    place = Path(cfg.log_dir) / cfg.name / str(name)
    if not (place / SWEEP).exists():
        while place.exists() and not cfg.sweep.name:  # two began in one second
            place = place.with_name(f"{place.name}_")
        if place.exists() and any(not path.name.startswith(".") for path in place.iterdir()):
            config.fail([f"sweep.name={name}: {place} is there, and is no sweep; name a new one"])
        place.mkdir(parents=True, exist_ok=True)
        return place, words
    began = read_json(place / SWEEP, "words")["words"]
    keys = {word.partition("=")[0] for word in words}
    if changed := [w for w in words if w not in began and w.partition("=")[0] not in MAY_CHANGE]:
        config.fail([f"{word}: {place} began as {' '.join(began)}; name a new sweep" for word in changed])
    return place, [*(word for word in began if word.partition("=")[0] not in keys), *words]


def _name(words: list[str]) -> str:
    """The time; in a SLURM job the same when the job is started again."""
    if job := slurm_job():
        return f"slurm-{job}_{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _is_sweeps(override: Override) -> bool:
    return override.key_or_group == "sweep" or override.key_or_group.startswith("sweep.")


def _first(overrides: Sequence[Override]) -> DictConfig:
    """The config of the first job, which the sweep's own settings are read from."""
    return config.compose("train", config.first(overrides))


@contextmanager
def _interruptible() -> Iterator[None]:
    """A SIGTERM stops a sweep as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
