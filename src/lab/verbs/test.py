"""`lab test`: the test metrics of a finished run, again, from its folder alone."""

from omegaconf import DictConfig

from lab import runs
from lab.engine.config.compose import overrides
from lab.engine.display import say
from lab.engine.launch.processes import processes
from lab.engine.runs.summary import table
from lab.engine.training import process
from lab.engine.training.lightning_quirks import filter_warnings


def main(cfg: DictConfig) -> None:
    filter_warnings()
    saved, data, task = runs.load(cfg.run, cfg.data.root)
    process.set_up_process(saved)
    runs.read(data, cfg.run)
    trainer = runs.evaluation_trainer(saved, cfg.trainer)
    with processes(trainer, "test", *overrides()):
        metrics = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        say(*table(dict(metrics)))
