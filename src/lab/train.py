"""The map: from a config to a trained, tested run, in the order in which it happens."""

from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from lab import build, runs
from lab.data.base import Data
from lab.engine import lock, timing
from lab.engine.config.allow import read_config
from lab.engine.config.compose import freeze
from lab.engine.config.paths import keep_root
from lab.engine.display import say
from lab.engine.folder import CONFIG
from lab.engine.launch import rendezvous
from lab.engine.launch.processes import processes
from lab.engine.launch.signals import stop
from lab.engine.runs.summary import opening, summary
from lab.engine.training import process
from lab.engine.training.loggers import log_hyperparameters
from lab.engine.training.process import filter_warnings
from lab.runs import finetune, judge, resume
from lab.runs.check import check, check_optimizers
from lab.runs.refusals import check_lengths, check_resumable


@stop.listen()
def main(cfg: DictConfig) -> float:
    """`lab train`: check the config, read the data, build the task, make the run's folder, train in it."""
    filter_warnings()
    timing.start()
    freeze(cfg)
    cfg.sweep = cfg.launcher = None  # they have chosen this job, and where it runs
    if rendezvous.meet(cfg.trainer.accelerator) > 0:
        return join(rendezvous.announced_folder())
    with rendezvous.announced() as announce:
        folder = resume.place(cfg)
        goes_on = folder is not None and (folder / CONFIG).exists()
        if folder and goes_on:
            cfg, changes = resume.merge(cfg, folder)
            best = resume.finished(folder)
            if best is not None and (why := resume.nothing_left(cfg, changes, folder)):
                say(f"{folder} is finished: {why}.")
                return best
            if resume.has_begun(folder):
                check_resumable(cfg)
        check(cfg, folder)
        process.settle(cfg)
        data, task = parts(cfg, folder, is_checked=goes_on)
        say(*data.report.short().split("\n"))
        if folder and goes_on:
            resume.check_data(data, folder)
        folder = folder or runs.unused(Path(cfg.log_dir) / cfg.name)
        with lock.locked(folder, is_new=not goes_on):
            if not goes_on:
                runs.create(cfg, data, folder)
            position = resume.position(cfg, folder, task)
            if goes_on:
                keep_root(cfg)
                resume.record(cfg, changes, folder)
            announce(folder)
            return train(cfg, data, task, folder, *position)


@stop.listen()
def join(folder: str) -> float:
    """What the other processes of a run do, with its frozen config; `lab rank FOLDER` is how lab starts them."""
    filter_warnings()
    cfg = read_config(Path(folder))
    process.settle(cfg)
    data, task = parts(cfg, Path(folder), is_checked=True)
    return train(cfg, data, task, Path(folder), *resume.position(cfg, Path(folder), task))


def parts(cfg: DictConfig, folder: Path | None, is_checked: bool = False) -> tuple[Data, L.LightningModule]:
    """The data, read, and the task: its weights drawn by the seed, found in the data, or another run's."""
    data = build.read_data(cfg, resume.inherited(cfg, folder), is_checked)
    judge.expect(cfg, folder)
    judge.check_inputs(cfg, data)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    task = build.build_task(cfg, data.facts)
    check_optimizers(cfg, task)
    runs.check_monitor(cfg, task)
    check_lengths(cfg, data)
    if not resume.has_begun(folder):
        with timing.announced("Initializing the net from the data"):
            build.init_from_data(task, data)
        finetune.start_from(cfg, task)
    return data, task


def train(
    cfg: DictConfig, data: Data, task: L.LightningModule, folder: Path, checkpoint: Path | None, step: int
) -> float:
    """Fit, then test the best weights; return the best value of the monitored metric, which a sweep optimises."""
    trainer = build.build_trainer(cfg, folder, step)
    if trainer.is_global_zero:
        say(opening(trainer, folder, step))
    with runs.recorded(folder, trainer) as results, processes(trainer, "rank", str(folder)):
        results["parameters"] = sum(p.numel() for p in task.parameters())
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        best = runs.best_score(trainer, task, data, folder, cfg.monitor.metric)
        results["last"] = runs.last_metrics(trainer)
        results["best"] = {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode, "value": best}
        runs.restore(task, folder)
        with timing.announced("Testing the best weights"):
            results["best"]["metrics"] = runs.validate(trainer, task, data)
            results["test"] = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        log_hyperparameters(trainer, folder, results)
        say(*summary(results, folder))
    return best
