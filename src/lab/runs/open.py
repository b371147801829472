"""A run that is trained: a new one, one that is resumed, or one that another process has begun."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lab.build import init_from_data
from lab.data.base import Data
from lab.data.facts import Facts
from lab.engine import lock, timing
from lab.engine.config.allow import read_config
from lab.engine.config.compose import freeze
from lab.engine.config.paths import keep_root
from lab.engine.display import say
from lab.engine.folder import CONFIG
from lab.engine.launch import rendezvous
from lab.engine.training.process import filter_warnings, settle
from lab.runs import judge, judges, resume
from lab.runs.check import check, check_optimizers
from lab.runs.create import create, unused
from lab.runs.finetune import start_from
from lab.runs.refusals import check_lengths, check_resumable
from lab.runs.results import check_monitor
from lab.tasks.base import Task


class Run:
    """A run that is going to be trained.

    Args:
        cfg: of the run.
        folder: of the run; None: `begin` makes it.
        is_resumed: the folder is a run's already.
        changes: the settings that were changed when it was resumed.
        is_joined: another process of the run has begun it.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path | None = None,
        is_resumed: bool = False,
        changes: dict[str, Any] | None = None,
        is_joined: bool = False,
    ) -> None:
        self.cfg, self.folder = cfg, folder
        self.is_resumed, self.changes, self.is_joined = is_resumed, changes or {}, is_joined
        self.best: float | None = None  # of a finished run that has nothing left to train
        self.checkpoint: Path | None = None  # to resume from
        self.step = 0  # the next one of the logs
        self._exits = ExitStack()
        self._announce: Callable[[Path], None] = lambda folder: None

    @property
    def is_checked(self) -> bool:
        """Whether every file of the data could be read before, by this run or by another of its processes."""
        return self.is_resumed or self.is_joined

    def inherited_facts(self) -> Facts | None:
        return resume.inherited(self.cfg, self.folder)

    def check_data(self, data: Data) -> None:
        """Raises UserError where the data does not fit the run that is resumed, or the judges."""
        if self.is_resumed and self.folder:
            resume.check_data(data, self.folder)
        judges.expect(self.cfg, self.folder)
        judge.check_inputs(self.cfg, data)

    def check_task(self, data: Data, task: Task) -> None:
        """Raises UserError where the optimizers, the monitored metric or the limits do not fit."""
        check_optimizers(self.cfg, task)
        check_monitor(self.cfg, task)
        check_lengths(self.cfg, data)

    def load_weights(self, data: Data, task: Task) -> None:
        """Give a new task its first weights. A run that is resumed loads them from its checkpoint instead."""
        if resume.has_begun(self.folder):
            return
        with timing.announced("Initializing the net from the data"):
            init_from_data(task, data)
        start_from(self.cfg, task)

    def begin(self, data: Data, task: Task) -> Path:
        """Lock the folder. Make it, or record that the run is resumed. Find the checkpoint. Tell the other processes.

        Returns:
            The folder.
        """
        if self.is_joined and self.folder:
            self.checkpoint, self.step = resume.position(self.cfg, self.folder, task)
            return self.folder
        say(*data.report.short().split("\n"))
        folder = self.folder = self.folder or unused(Path(self.cfg.log_dir) / self.cfg.name)
        self._exits.enter_context(lock.locked(folder, is_new=not self.is_resumed))
        if not self.is_resumed:
            create(self.cfg, data, folder)
        self.checkpoint, self.step = resume.position(self.cfg, folder, task)
        if self.is_resumed:
            keep_root(self.cfg)
            resume.record(self.cfg, self.changes, folder)
        self._announce(folder)
        return folder


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """Check a config, and find out which run it is. Its folder is locked from `Run.begin` until the end.

    The processes that torchrun or SLURM started wait here for the first one, and join its run.
    """
    filter_warnings()
    timing.start()
    freeze(cfg)
    cfg.sweep = cfg.launcher = None  # they have chosen this job, and where it runs
    if rendezvous.meet(cfg.trainer.accelerator) > 0:
        yield joined(rendezvous.announced_folder())
        return
    with rendezvous.announced() as announce:
        run = _found(cfg)
        run._announce = announce
        with run._exits:
            yield run


def _found(cfg: DictConfig) -> Run:
    """The run of a config, checked unless it is finished."""
    folder = resume.place(cfg)
    run = Run(cfg, folder)
    if folder and (folder / CONFIG).exists():
        merged, changes = resume.merge(cfg, folder)
        run = Run(merged, folder, is_resumed=True, changes=changes)
        best = resume.finished(folder)
        if best is not None and (why := resume.nothing_left(run.cfg, run.changes, folder)):
            say(f"{folder} is finished: {why}.")
            run.best = best
            return run
        if resume.has_begun(folder):
            check_resumable(run.cfg)
    check(run.cfg, folder)
    settle(run.cfg)
    return run


def joined(folder: str) -> Run:
    """The run in a folder that another process has begun, with its frozen config."""
    filter_warnings()
    cfg = read_config(Path(folder))
    settle(cfg)
    return Run(cfg, Path(folder), is_joined=True)
