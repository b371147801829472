"""`lab test`: compute the test metrics of a finished run again, from its folder alone."""

from omegaconf import DictConfig

from lab import runs
from lab.engine.config.compose import overrides
from lab.engine.config.settings import check_settings
from lab.engine.display import say
from lab.engine.launch.processes import processes
from lab.engine.runs.summary import metrics_table


def main(cfg: DictConfig) -> None:
    check_settings("test", cfg)
    saved, data, task = runs.load(cfg.run, cfg.data.root, test_split=True)
    trainer = runs.evaluation_trainer(saved, cfg.trainer)
    with processes(trainer, "test", *overrides()):
        metrics = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        say(*metrics_table(dict(metrics)))
