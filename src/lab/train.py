"""The map: from a config to a trained, tested run, in the order in which it happens."""

from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from lab import external, judge, lock, resume, run, seconds
from lab.allow import read_config
from lab.check import check
from lab.config import freeze, quiet
from lab.data.base import Data
from lab.display import say
from lab.folder import CONFIG
from lab.launch import processes
from lab.loggers import log_hyperparameters
from lab.paths import keep_root
from lab.refusals import check_lengths, check_resumable
from lab.stop import stop
from lab.summary import opening, summary


@stop.listen()
def main(cfg: DictConfig) -> float:
    """`lab train`: check the config, read the data, build the task, make the run's folder, train in it."""
    quiet()
    seconds.start()
    freeze(cfg)
    cfg.sweep = cfg.launcher = None  # they have chosen this job, and where it runs
    if external.meet(cfg.trainer.accelerator) > 0:
        return join(external.announced_folder())
    with external.announced() as announce:
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
        run.settle(cfg)
        data, task = parts(cfg, folder, is_checked=goes_on)
        say(*data.report.short().split("\n"))
        if folder and goes_on:
            resume.check_data(data, folder)
        folder = folder or run.unused(Path(cfg.log_dir) / cfg.name)
        with lock.locked(folder, is_new=not goes_on):
            if not goes_on:
                run.create(cfg, data, folder)
            position = resume.position(cfg, folder, task)
            if goes_on:
                keep_root(cfg)
                resume.record(cfg, changes, folder)
            announce(folder)
            return train(cfg, data, task, folder, *position)


@stop.listen()
def join(folder: str) -> float:
    """What the other processes of a run do, with its frozen config; `lab rank FOLDER` is how lab starts them."""
    quiet()
    cfg = read_config(Path(folder))
    run.settle(cfg)
    data, task = parts(cfg, Path(folder), is_checked=True)
    return train(cfg, data, task, Path(folder), *resume.position(cfg, Path(folder), task))


def parts(cfg: DictConfig, folder: Path | None, is_checked: bool = False) -> tuple[Data, L.LightningModule]:
    """The data, read, and the task: its weights drawn by the seed, found in the data, or another run's."""
    data = run.read_data(cfg, resume.inherited(cfg, folder), is_checked)
    judge.expect(cfg, folder)
    judge.check_inputs(cfg, data)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    task = run.build_task(cfg, data.facts)
    run.check_monitor(cfg, task)
    check_lengths(cfg, data)
    if not resume.has_begun(folder):
        with seconds.announced("Initializing the net from the data"):
            run.init_from_data(task, data)
        resume.start_from(cfg, task)
    return data, task


def train(
    cfg: DictConfig, data: Data, task: L.LightningModule, folder: Path, checkpoint: Path | None, step: int
) -> float:
    """Fit, then test the best weights; return the best value of the monitored metric, which a sweep optimises."""
    trainer = run.build_trainer(cfg, folder, step)
    if trainer.is_global_zero:
        say(opening(trainer, folder, step))
    with run.recorded(folder, trainer) as results, processes(trainer, "rank", str(folder)):
        results["parameters"] = sum(p.numel() for p in task.parameters())
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        best = run.best_score(trainer, task, data, folder, cfg.monitor.metric)
        results["last"] = run.last_metrics(trainer)
        results["best"] = {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode, "value": best}
        run.restore(task, folder)
        with seconds.announced("Testing the best weights"):
            results["best"]["metrics"] = run.validate(trainer, task, data)
            results["test"] = trainer.test(task, data, verbose=False)[0]
    if trainer.is_global_zero:
        log_hyperparameters(trainer, folder, results)
        say(*summary(results, folder))
    return best
