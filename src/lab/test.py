"""`lab test`: the test metrics of a finished run, again, from its folder alone."""

import sys
from collections.abc import Iterator

from omegaconf import DictConfig

from lab import config, run
from lab.data.base import Data
from lab.data.facts import Facts
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
        UserError: a fact that the net was built with is another, such as the classes.
    """
    data.prepare_data()
    data.setup("test")
    if problems := list(changes(data.facts, data.found, folder)):
        config.fail(problems)
    if data.found.fingerprint != data.facts.fingerprint:
        say(
            f"warning: the data has changed since {folder} was trained; these results are for different data",
            file=sys.stderr,
        )


def changes(before: Facts, now: Facts, folder: str) -> Iterator[str]:
    """Yield a line for each feature whose facts are no longer those of the run in `folder`."""
    for name, feature in before.features.items():
        if different := feature.changes(now.features[name]):
            yield f"data: {name}: {', '.join(different)} differ from those that {folder} was trained with."
