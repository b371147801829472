"""`lab train -m …`: a sweep is a folder of runs. What comes next a search says; the pool runs it.

Given again with the same `sweep.name` it goes on where it stopped: finished runs stay, one that was stopped goes on.
"""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Protocol

from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lab import cli, config
from lab.allow import instantiate
from lab.folder import RESULTS, read_json, write_json
from lab.sweep.board import Board
from lab.sweep.pool import Job, Pool, Task

WORDS = "sweep.json"  # in the sweep's folder: what it was asked for
MAY_CHANGE = ("sweep.name", "sweep.jobs", "sweep.trials", "sweep.retries", "log_dir")


class Search(Protocol):
    """What to run next."""

    shared: bool  # several processes may run the sweep at once

    def next(self) -> Task | None:
        """None: there is nothing to run now."""

    def tell(self, job: Job) -> None:
        """A job has ended, as its `status` says, with its `value`."""

    def beat(self) -> None:
        """Called about twice a second."""

    def finish(self) -> str:
        """What was found, in words."""


def main(arguments: Sequence[str]) -> int:
    """Run a sweep's jobs and say what came of them.

    Returns:
        The exit code: 1 where a job failed, 130 where the sweep was stopped.

    Raises:
        UserError: the sweep can't be run as asked, or another process runs it.
    """
    place, words = _place(list(get_args_parser().parse_args(list(arguments)).overrides))
    overrides = parsed(words)
    cfg = _first(overrides)
    own = [override for override in overrides if not _is_sweeps(override)]
    search: Search = instantiate(cfg.sweep)(overrides=own, place=place, monitor=cfg.monitor)
    board = Board(place, {str(o.get_key_element()) for o in own if o.is_sweep_override()}, cfg)
    from lab import resume

    resume.wait_for(place)
    with contextlib.nullcontext() if search.shared else resume.alone(place), _interruptible():
        cli.import_heavy("lab.train")  # once, for all jobs
        import torch

        pool = Pool(_train, cfg.sweep.jobs, torch.cuda.device_count())
        try:
            _run(search, pool, board, cfg.sweep.retries)
        except KeyboardInterrupt:
            print("\nStopping: each job finishes its step and saves.", flush=True)
            pool.stop()
            print(board.table(), f"\ngo on with: lab train -m experiment={cfg.name} sweep.name={place.name}")
            return 130
    print(board.table(), search.finish(), sep="\n")
    return int(any(job.status == "failed" for job in board.jobs.values()))


def _run(search: Search, pool: Pool, board: Board, retries: int) -> None:
    while True:
        while pool.has_room() and (task := search.next()) is not None:
            new = board.add(task)
            if (value := best(new.folder)) is not None:  # it was run before
                new.status, new.value = "finished", value
                search.tell(new)
            else:
                pool.start(new)
        if not pool.running:
            return
        if job := pool.wait(0.5):
            job.value = best(job.folder) if job.status == "finished" else None
            board.ended(job)
            if job.status == "failed" and job.tries <= retries:
                pool.start(job)
            else:
                search.tell(job)
        search.beat()
        board.show(pool.running)


def best(folder: Path) -> float | None:
    """The best value of a run that has finished."""
    results = read_json(folder / RESULTS) if (folder / RESULTS).exists() else {}
    return results["best"]["value"] if results.get("status") == "finished" else None


def _train(job: Job) -> int:
    from lab import resume, seconds, train

    seconds.restart()
    resume.wait_for(job.folder)  # whoever ran the sweep before may still be saving
    words = config.with_the_runs_own([*job.overrides, f"run={job.folder}"])
    return cli.exit_code(lambda: train.main(config.compose("train", words)))


def _place(words: list[str]) -> tuple[Path, list[str]]:
    """The sweep's folder, and its words: those with which it began, and the new ones."""
    cfg = _first(parsed(words))
    place = Path(cfg.log_dir) / cfg.name / (cfg.sweep.name or datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if not (place / WORDS).exists():
        while place.exists() and not cfg.sweep.name:  # two began in one second
            place = place.with_name(f"{place.name}_")
        if place.exists() and any(place.iterdir()):
            config.fail([f"sweep.name={cfg.sweep.name}: {place} is there, and is no sweep; name a new one"])
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / WORDS, {"words": words})
        return place, words
    began = read_json(place / WORDS, "words")["words"]
    keys = {word.partition("=")[0] for word in words}
    if changed := [w for w in words if w not in began and w.partition("=")[0] not in MAY_CHANGE]:
        config.fail([f"{word}: {place} began as {' '.join(began)}; name a new sweep" for word in changed])
    return place, [*(word for word in began if word.partition("=")[0] not in keys), *words]


def parsed(words: Sequence[str]) -> list[Override]:
    """Hydra's own reading of the command line, globs included."""
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def _is_sweeps(override: Override) -> bool:
    return override.key_or_group == "sweep" or override.key_or_group.startswith("sweep.")


def _first(overrides: Sequence[Override]) -> DictConfig:
    """The config of the first job, which the sweep's own settings are read from."""
    return config.compose("train", [config.single(override) for override in overrides])


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
