import json
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lab.engine.errors import Pruned

TRIAL = "LAB_TRIAL"  # the environment's name for the trial that a run is: its study's storage may hold a password


class TrialPruning(Callback):
    """Reports each validation to the study that the run is a trial of, and ends it where the study's pruner says so.

    The first process asks; all do what it is told.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.trial: Any = None
        if trainer.is_global_zero:
            import optuna

            from lab.engine.config.instantiate import instantiate

            url, name, number, pruner = json.loads(os.environ[TRIAL])
            study = optuna.load_study(storage=open_storage(url), study_name=name, pruner=instantiate(pruner))
            self.trial = optuna.trial.Trial(study, study.trials[number]._trial_id)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        prune = False
        if self.trial is not None and self.metric in trainer.callback_metrics:
            self.trial.report(trainer.callback_metrics[self.metric].item(), trainer.global_step)
            prune = self.trial.should_prune()
        if trainer.strategy.broadcast(prune):
            raise Pruned


def open_storage(url: str) -> Any:
    """The storage of a study, as Optuna takes it: that of a journal in a file, or the address of a database."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url.startswith("journal:"):
        backend = JournalFileBackend(url.removeprefix("journal:"))
        _drop_torn_line(Path(url.removeprefix("journal:")), backend)
        return JournalStorage(backend)
    return url


def _drop_torn_line(path: Path, backend: Any) -> None:
    """Remove what a process that was killed left of its last line: Optuna would append the next line to it."""
    from optuna.storages.journal._file import get_lock_file

    with get_lock_file(backend._lock), open(path, "r+b") as file:
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
