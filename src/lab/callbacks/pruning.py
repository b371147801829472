import json
import os
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lab.errors import Pruned

TRIAL = "LAB_TRIAL"  # the environment's name for the trial that a run is: its study's storage may hold a password


class Pruning(Callback):
    """Reports each validation to the study that the run is a trial of, and ends it where the study's pruner says so.

    The first process asks; all do what it is told.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_fit_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.trial: Any = None
        if trainer.is_global_zero:
            import optuna

            from lab.allow import instantiate
            from lab.sweep.study import open_storage

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
