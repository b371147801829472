"""Config and facts become objects: the data, the net, the task and the trainer."""

import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from lab.callbacks.best_checkpoint import BestCheckpoint
from lab.callbacks.early_stopping import ResumableEarlyStopping
from lab.callbacks.epoch_lines import EpochLines
from lab.callbacks.epoch_timer import EpochTimer
from lab.callbacks.figures import Figures
from lab.callbacks.finite_guard import FiniteGuard
from lab.callbacks.predictions import PredictionWriter
from lab.callbacks.pruning import TRIAL, TrialPruning
from lab.callbacks.rank_consistency import RankConsistency
from lab.callbacks.resource_monitor import ResourceMonitor
from lab.callbacks.resume_checkpoint import ResumeCheckpoint
from lab.callbacks.step_seed import StepSeed
from lab.callbacks.weighted_accumulation import WeightedAccumulation
from lab.data.base import Data
from lab.data.facts import Facts
from lab.data.views import TrainingSplit
from lab.engine import timing
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import fail
from lab.engine.launch import rendezvous
from lab.engine.runs.checkpoints import CheckpointIO
from lab.engine.runs.ending import ends
from lab.engine.training import lightning_quirks as quirks
from lab.engine.training.loggers import MetricsCSV, tolerate_write_errors
from lab.engine.training.trainer import typed
from lab.nets.base import InitFromData
from lab.tasks.added_metrics import added_metrics
from lab.tasks.base import Task
from lab.tasks.memory_format import set_memory_format
from lab.tasks.optimizers import is_one


def read_data(cfg: DictConfig, inherited: Facts | None = None, is_checked: bool = False) -> Data:
    """Build, read and split the data of a config.

    Args:
        cfg: of a run.
        inherited: facts of the run whose weights this run starts from.
        is_checked: every file was readable for another process of the run, or before the run was resumed.
    """
    data = build_data(cfg)
    data.inherited, data.is_checked = inherited, is_checked
    with timing.announced("Reading the data"):
        data.prepare_data()
        data.setup("fit")
    return data


def build_data(cfg: DictConfig) -> Data:
    """Build the data of a config, without reading it."""
    given = {"seed": cfg.seed, "cv": cfg.cv, "fold": cfg.fold}
    refuse_given("data", cfg.data, given)
    data: Data = instantiate(cfg.data, **given)
    return data


def build_task(cfg: DictConfig, facts: Facts) -> Task:
    """Build the task of a config around its net. The facts of the data fill the arguments that both require."""
    given: dict[str, Any] = {"optimizer": factories(cfg.optimizer), "scheduler": factories(cfg.scheduler)}
    given["seed"] = cfg.seed
    refuse_given("task", cfg.task, ("net", *given))
    net = instantiate(cfg.net, facts)
    set_memory_format(net, cfg.channels_last, cfg.trainer.get("accelerator", "auto"), facts.features)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)  # in place: the weights keep their names
    if metrics := dict(added_metrics(cfg, facts)):
        given["metrics"] = metrics
    task: Task = instantiate(cfg.task, facts, **given, net=net)
    return task


def factories(node: Any) -> Any:
    """Return the factory of a config's optimizer or schedule, or a factory for each name."""
    return instantiate(node) if is_one(node) else {str(name): instantiate(node[name]) for name in node}


def refuse_given(key: str, node: DictConfig, given: Collection[str]) -> None:
    """Raise UserError where a node of the config sets an argument that another key sets."""
    if problems := [f"{key}.{name}: leave it out; {name}=… sets it." for name in given if name in node]:
        fail(problems)


def init_from_data(task: LightningModule, data: Data) -> None:
    """Set the weights of a new task that depend on the training split."""
    for module in task.modules():
        if isinstance(module, InitFromData):
            module.init_from(TrainingSplit(data))


def build_trainer(cfg: DictConfig, folder: Path, from_step: int = 0) -> Trainer:
    """Build the trainer of a config.

    Args:
        cfg: of a run.
        folder: of the run, for checkpoints, logs, figures and predictions.
        from_step: the first step that is logged; a resumed run replaces the curves from it on.
    """
    folder = folder.absolute()
    loggers = build_loggers(cfg, folder, from_step)
    has_bar = cfg.trainer.enable_progress_bar and sys.stdout.isatty()
    arguments: dict[str, Any] = {
        "callbacks": [
            *build_callbacks(cfg, folder, has_bar),
            Figures(folder, loggers, cfg.figures),
            PredictionWriter(folder),
        ],
        "logger": loggers,
        # Lightning would guess the cluster from any variable of SLURM
        "plugins": [CheckpointIO(), rendezvous.cluster_environment() or LightningEnvironment()],
        "enable_progress_bar": has_bar,
        "default_root_dir": str(folder),
    }
    if cfg.trainer.get("profiler") is None:
        arguments["profiler"] = quirks.NoProfiler()
    trainer: Trainer = instantiate(cfg.trainer, **arguments)
    profiler = typed(trainer).profiler
    if profiler.dirpath is not None:
        profiler.dirpath = folder / profiler.dirpath
    quirks.leave_signals_alone(trainer)
    quirks.skip_empty_hooks(typed(trainer).callbacks)
    return trainer


def build_loggers(cfg: DictConfig, folder: Path, from_step: int) -> list[Logger]:
    """Build the config's logger, and that of `metrics.csv`."""
    purge: dict[str, Any] = {"purge_step": from_step} if cfg.logger._target_.endswith("TensorBoardLogger") else {}
    logger = quirks.keep_dollar_signs(instantiate(cfg.logger, save_dir=str(folder), **purge))
    return [tolerate_write_errors(logger), tolerate_write_errors(MetricsCSV(folder, from_step))]


def build_callbacks(cfg: DictConfig, folder: Path, has_bar: bool) -> Iterator[Callback]:
    """Yield the callbacks of every run, those that a setting asks for, and those that the config defines, in order."""
    metric, mode = cfg.monitor.metric, cfg.monitor.mode
    yield BestCheckpoint(folder, metric, mode)  # the weights that are tested
    yield ResumeCheckpoint(folder, ends(cfg), **cfg.checkpoint)  # an interrupted run resumes exactly
    yield StepSeed(cfg.seed)  # draws do not depend on earlier steps
    if cfg.trainer.accumulate_grad_batches > 1:
        yield WeightedAccumulation()  # the gradient is the mean over the samples, also of batches of several sizes
    yield FiniteGuard(folder, cfg.not_finite)  # a diverged run ends, or skips the step
    yield LearningRateMonitor()  # curves of the learning rates
    yield EpochTimer()  # times of `results.json`
    yield ResourceMonitor()  # curves of the gradient's norm, the speed and the memory
    for name, node in cfg.callbacks.items():
        callback = instantiate(node)
        if isinstance(callback, ModelCheckpoint):
            quirks.confine_checkpoints(callback, folder / "checkpoints" / str(name))
        yield callback
    yield RankConsistency(cfg)  # all ranks train the same run
    yield quirks.ThrottledProgressBar() if has_bar else EpochLines()  # the terminal, or a log file
    if cfg.early_stopping is not None:
        yield ResumableEarlyStopping(metric, patience=cfg.early_stopping, mode=mode)
    if TRIAL in os.environ:
        yield TrialPruning(metric)  # the study may end the trial
    if cfg.ema is not None:
        yield EMAWeightAveraging(decay=cfg.ema)
