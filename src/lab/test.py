"""`lab test`: the test metrics of a finished run, again, from its folder alone."""

import sys

from omegaconf import DictConfig

from lab import config, run
from lab.launch import processes
from lab.summary import table


def main(cfg: DictConfig) -> None:
    config.quiet()
    saved, data, task = run.load(cfg.run)
    run.settle(saved)
    data.prepare_data()
    data.setup("test")
    if data.found.class_names != data.facts.class_names:
        config.fail([f"data: its classes are no longer those that {cfg.run} was trained on."])
    if data.found.fingerprint != data.facts.fingerprint:
        print(f"warning: the data has changed since {cfg.run} was trained", file=sys.stderr)
    trainer = run.evaluation_trainer(saved, cfg.trainer)
    with processes(trainer, "test", *config.overrides()):
        metrics = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        print(table(dict(metrics)))
