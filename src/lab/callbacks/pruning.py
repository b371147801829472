import json
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lab.engine.errors import Pruned

TRIAL = "LAB_TRIAL"  # the variable that names the run's trial; not an argument: a storage URL may hold a password


class TrialPruning(Callback):
    """Reports each validation to the study of the run's trial, and ends the run if the study's pruner asks for it.

    Rank 0 asks the pruner and broadcasts the decision.
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
    """Return the storage of a study: a journal in a file, or the URL of a database."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if url.startswith("journal:"):
        backend = JournalFileBackend(url.removeprefix("journal:"))
        _drop_torn_line(Path(url.removeprefix("journal:")), backend)
        return JournalStorage(backend)
    return url


def _drop_torn_line(path: Path, backend: Any) -> None:
    """Remove an incomplete last line, which a killed process left: Optuna would append the next line to it."""
    from optuna.storages.journal._file import get_lock_file

    with get_lock_file(backend._lock), open(path, "r+b") as file:
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
