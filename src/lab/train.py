"""The map: from a config to a trained, tested run, in the order in which it happens."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lab import run
from lab.check import check
from lab.config import freeze, quiet
from lab.data.base import Data
from lab.folder import CONFIG
from lab.report import opening, summary


def main(cfg: DictConfig) -> float:
    """`lab train`: check the config, read the data, build the task, make the run's folder, train in it."""
    quiet()
    freeze(cfg)
    check(cfg)
    run.settle(cfg)
    data, task = parts(cfg)
    folder = run.create(cfg, data.facts)
    with ranks("rank", str(folder)):
        return train(cfg, data, task, folder)


def join(folder: str) -> None:
    """`lab rank FOLDER`: what the other processes of a distributed run are started with: its frozen config."""
    quiet()
    cfg = OmegaConf.load(Path(folder) / CONFIG)
    assert isinstance(cfg, DictConfig)
    run.settle(cfg)
    train(cfg, *parts(cfg), Path(folder))


def parts(cfg: DictConfig) -> tuple[Data, L.LightningModule]:
    """The data, read, and the task, its weights drawn by the seed."""
    data = run.read_data(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    task = run.build_task(cfg, data.facts)
    run.check_monitor(cfg, task)
    return data, task


def train(cfg: DictConfig, data: Data, task: L.LightningModule, folder: Path) -> float:
    """Fit, then test the best weights; return the best value of the monitored metric, which a sweep optimises."""
    trainer = run.build_trainer(cfg, folder)
    if trainer.is_global_zero:
        print(opening(trainer, folder))
    with run.recorded(folder, trainer) as results:
        trainer.fit(task, data)
        best = run.best_score(trainer, task, data, folder, cfg.monitor.metric)
        results["best"] = {"metric": cfg.monitor.metric, "value": best}
        run.restore(task, folder)
        results["test"] = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        print(summary(results, folder))
    return best


@contextmanager
def ranks(*arguments: str) -> Iterator[None]:
    """Let Lightning start this job's other processes as `lab ARGUMENTS…`, and leave nothing of them behind.

    By itself it repeats the command line, which in a sweep is the whole sweep, and each rank would draw its own
    hyperparameters; what it puts in the environment would then make the next job take itself for a rank.
    """
    environ, argv = dict(os.environ), sys.argv[1:]
    HydraConfig.instance().cfg = None  # else Lightning adds Hydra's own overrides
    sys.argv[1:] = arguments
    try:
        yield
    finally:
        sys.argv[1:] = argv
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(environ)
