"""`lab test`: the test metrics of a finished run, again, from its folder alone."""

import sys
from dataclasses import asdict

from omegaconf import DictConfig

from lab import config, run
from lab.data.base import Data
from lab.display import say
from lab.launch import processes
from lab.summary import table


def main(cfg: DictConfig) -> None:
    config.quiet()
    saved, data, task = run.load(cfg.run, cfg.data.root)
    run.settle(saved)
    read(data, cfg.run)
    trainer = run.evaluation_trainer(saved, cfg.trainer)
    with processes(trainer, "test", *config.overrides()):
        metrics = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        say(*table(dict(metrics)))


def read(data: Data, folder: str) -> None:
    """Read the data of the run in `folder`, and compare it with what the run was trained on.

    Raises:
        UserError: its classes are others.
    """
    data.prepare_data()
    data.setup("test")
    found, facts = asdict(data.found), asdict(data.facts)
    if found.get("class_names") != facts.get("class_names"):  # not all data has classes
        config.fail([f"data: its classes are no longer those that {folder} was trained on."])
    if found["fingerprint"] != facts["fingerprint"]:
        say(
            f"warning: the data has changed since {folder} was trained; these results are for different data",
            file=sys.stderr,
        )
