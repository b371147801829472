"""The run that a config describes: a new one, a resumed one, or one that another process has opened."""

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
from lab.engine.config.user_paths import make_paths_absolute
from lab.engine.display import say
from lab.engine.launch import rendezvous
from lab.engine.training.lightning_quirks import filter_warnings
from lab.engine.training.process import set_up_process
from lab.runs import judges, resume
from lab.runs.best import check_monitor
from lab.runs.check import check, check_optimizers
from lab.runs.finetune import load_pretrained
from lab.runs.new import create_run, new_folder
from lab.runs.refusals import check_lengths
from lab.tasks.base import Task


@contextmanager
def open_run(cfg: DictConfig) -> Iterator["Run"]:
    """Check the config of `lab train` and find its run. `Run.begin` locks the run's folder until this context ends.

    Only the first of the processes that torchrun or SLURM started does this. The others wait for it and join its run.

    Raises:
        UserError: the config is invalid, or changes a setting that is fixed when a run is resumed.
    """
    filter_warnings()
    timing.start()
    freeze(cfg)
    if rendezvous.init_distributed(cfg.trainer.accelerator) > 0:
        yield join_run(rendezvous.receive_folder())
        return
    with rendezvous.announcing_folder() as announce, ExitStack() as until_closed:
        run = _new_or_resumed(cfg)
        run.announce, run.until_closed = announce, until_closed
        yield run


def join_run(folder: str) -> "Run":
    """The run in a folder that the first process has opened, with the config in that folder."""
    filter_warnings()
    cfg = read_config(Path(folder))
    set_up_process(cfg)
    return Run(cfg, Path(folder), is_joined=True)


def _new_or_resumed(cfg: DictConfig) -> "Run":
    """The run of a config. The config is checked, except for a finished run that is not trained further."""
    run = Run(*resume.find_run(cfg))
    if run.best is None:
        check(run.cfg, run.folder)
        set_up_process(run.cfg)
    return run


class Run:
    """A run to be trained. The methods are in the order in which `lab.train` calls them.

    Args:
        cfg: the config; for a resumed run the config in its folder, with the changes.
        folder: the run's folder; None for a new run, for which `begin` makes one.
        changes: the settings that changed, by key, if the folder already holds a run, which is resumed.
        best: the best value of a finished run that is not trained further.
        is_joined: another process has opened the run.
    """

    def __init__(
        self,
        cfg: DictConfig,
        folder: Path | None = None,
        changes: dict[str, Any] | None = None,
        best: float | None = None,
        is_joined: bool = False,
    ) -> None:
        self.cfg, self.folder, self.changes, self.best = cfg, folder, changes, best
        self.is_resumed, self.is_joined = changes is not None, is_joined
        self.checkpoint: Path | None = None  # to resume from; set by `begin`
        self.step = 0  # the next step of the logs; set by `begin`
        self.until_closed = ExitStack()  # holds the lock
        self.announce: Callable[[Path], None] = lambda folder: None  # tells the other processes the folder

    @property
    def is_checked(self) -> bool:
        """Whether every data file has been read before: by the earlier part of the run, or by another process."""
        return self.is_resumed or self.is_joined

    def inherited_facts(self) -> Facts | None:
        """The facts of the run that is resumed, or whose weights this run starts from."""
        return resume.inherited_facts(self.cfg, self.folder)

    def check_data(self, data: Data) -> None:
        """Raises UserError if the data differs from that of the resumed run, or does not fit the judges."""
        if self.is_resumed and self.folder:
            resume.check_same_data(data, self.folder)
        judges.expect_weights(self.cfg, self.folder)
        judges.check_inputs(self.cfg, data)

    def check_task(self, data: Data, task: Task) -> None:
        """Raises UserError if the optimizers, the monitored metric or the limits do not fit the task and the data."""
        check_optimizers(self.cfg, task)
        check_monitor(self.cfg, task)
        check_lengths(self.cfg, data)

    def load_weights(self, data: Data, task: Task) -> None:
        """Set the initial weights: from the training split, then from `finetune` or `warm_start`.

        A run with a checkpoint gets its weights from the checkpoint, when `Trainer.fit` loads it.
        """
        if resume.has_checkpoint(self.folder):
            return
        with timing.announced("Initializing the net from the data"):
            init_from_data(task, data)
        load_pretrained(self.cfg, task)

    def begin(self, data: Data, task: Task) -> Path:
        """Lock the folder, write a new run or record the resume, and find the checkpoint to resume from.

        Returns:
            The folder.

        Raises:
            UserError: another process trains in the folder, or no checkpoint can be resumed from.
            RunError: the folder cannot be written.
        """
        if self.is_joined and self.folder:
            self.checkpoint, self.step = resume.find_checkpoint(self.cfg, self.folder, task)
            return self.folder
        say(*data.report.short().split("\n"))
        folder = self.folder = self.folder or new_folder(Path(self.cfg.log_dir) / self.cfg.name)
        self.until_closed.enter_context(lock.locked(folder, is_new=not self.is_resumed))
        if not self.is_resumed:
            create_run(self.cfg, data, folder)
        self.checkpoint, self.step = resume.find_checkpoint(self.cfg, folder, task)
        if self.changes is not None:
            make_paths_absolute(self.cfg)
            resume.record_resume(self.cfg, self.changes, folder)
        self.announce(folder)
        return folder
