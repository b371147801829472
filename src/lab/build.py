"""Config and facts become objects: the data, the net, the task and the trainer."""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
)
from omegaconf import DictConfig
from torchmetrics import Metric

from lab.callbacks.best_checkpoint import BestCheckpoint, confine_checkpoints
from lab.callbacks.early_stopping import ResumableEarlyStopping
from lab.callbacks.epoch_lines import EpochLines
from lab.callbacks.epoch_timer import EpochTimer
from lab.callbacks.figures import Figures
from lab.callbacks.finite_guard import FiniteGuard
from lab.callbacks.predictions import Predictions
from lab.callbacks.progress_bar import ProgressBar
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
from lab.engine.config.allow import locate
from lab.engine.config.instantiate import instantiate
from lab.engine.config.signatures import parameters
from lab.engine.errors import fail, one_line
from lab.engine.launch import rendezvous
from lab.engine.runs.checkpoints import CheckpointIO
from lab.engine.runs.ending import ends
from lab.engine.training.lightning_quirks import STEP_HOOKS, NoProfiler
from lab.engine.training.loggers import MetricsCSV, forgiving, unexpanded
from lab.engine.training.trainer import typed
from lab.nets.base import InitFromData
from lab.tasks.base import Task


def added_metrics(cfg: DictConfig, facts: Facts) -> Iterator[tuple[str, Metric]]:
    """Build the metrics of a config by name; an argument that is not set is filled with the fact of its name.

    Raises:
        UserError: a metric can't be built, or the task takes none.
    """
    added = cfg.task.get("metrics") or {}
    if added and not takes_metrics(locate(cfg.task._target_)):
        fail([f"task.metrics: task {cfg.task._target_.rpartition('.')[2]} does not accept additional metrics"])
    for name, node in added.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            fail([f"task.metrics.{name}={node}: expected a class with its arguments, {{_target_: torchmetrics.NAME}}"])
        try:
            locate(node._target_)
        except ImportError as error:
            fail([f"task.metrics.{name}: {one_line(error)}"])
        try:
            metric = instantiate(node, facts, none_is_unset=True)
        except InstantiationException as error:
            fail([f"task.metrics.{name}: {one_line(error.__cause__ or error)}"])
        if not isinstance(metric, Metric):
            fail([f"task.metrics.{name}: {node._target_} is no metric of torchmetrics"])
        yield str(name), metric


def takes_metrics(task: Callable[..., Any]) -> bool:
    """Whether a task has an argument `metrics` of metrics by name; that of `Task` has a collection for each stage."""
    own, of_stages = (parameters(function)[0].get("metrics") for function in (task, Task))
    return own is not None and of_stages is not None and own.annotation != of_stages.annotation


def by_key(key: str, node: Any) -> dict[str, Any]:
    """The objects that a config's `optimizer` or `scheduler` names, by their keys: one, or one for each name."""
    return {key: node} if _is_one(node) else {f"{key}.{name!s}": node[name] for name in node}


def factories(node: Any) -> Any:
    """The factory of a config's optimizer or schedule, or a factory for each name."""
    return instantiate(node) if _is_one(node) else {str(name): instantiate(node[name]) for name in node}


def _is_one(node: Any) -> bool:
    """Whether a node of the config is one object, not a mapping of names."""
    return not isinstance(node, DictConfig) or "_target_" in node


def read_data(cfg: DictConfig, inherited: Facts | None = None, is_checked: bool = False) -> Data:
    """The data of a config, read and split.

    Args:
        cfg: of a run.
        inherited: facts of the run whose weights this run starts from.
        is_checked: another process of the run, or the run before it was resumed, could read every file.
    """
    data = build_data(cfg)
    data.inherited, data.is_checked = inherited, is_checked
    with timing.announced("Reading the data"):
        data.prepare_data()
        data.setup("fit")
    return data


def build_data(cfg: DictConfig) -> Data:
    """The data of a config, not read yet."""
    given = {"seed": cfg.seed, "cv": cfg.cv, "fold": cfg.fold}
    fail_of_given("data", cfg.data, given)
    data: Data = instantiate(cfg.data, **given)
    return data


def build_task(cfg: DictConfig, facts: Facts) -> Task:
    """The task of a config around its net; both are filled with the facts of the data that they require."""
    given: dict[str, Any] = {"optimizer": factories(cfg.optimizer), "scheduler": factories(cfg.scheduler)}
    given["seed"] = cfg.seed
    fail_of_given("task", cfg.task, ("net", *given))
    net = instantiate(cfg.net, facts)
    if cfg.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)  # in place: the weights keep their names
    if metrics := dict(added_metrics(cfg, facts)):
        given["metrics"] = metrics
    task: Task = instantiate(cfg.task, facts, **given, net=net)
    return task


def fail_of_given(key: str, node: DictConfig, given: Collection[str]) -> None:
    """Refuse a node of the config that has arguments which it gets from elsewhere."""
    if problems := [f"{key}.{name}: leave it out; {name}=… sets it." for name in given if name in node]:
        fail(problems)


def init_from_data(task: LightningModule, data: Data) -> None:
    """Set those weights of a new task that depend on the training split."""
    for module in task.modules():
        if isinstance(module, InitFromData):
            module.init_from(TrainingSplit(data))


def build_trainer(cfg: DictConfig, folder: Path, from_step: int = 0) -> Trainer:
    """The trainer of a config, which writes its checkpoints and curves into `folder`, from `from_step` on."""
    metric, mode, folder = cfg.monitor.metric, cfg.monitor.mode, folder.absolute()
    callbacks: list[Callback] = [
        BestCheckpoint(folder, metric, mode),
        ResumeCheckpoint(folder, ends(cfg), **cfg.checkpoint),
        StepSeed(cfg.seed),
        *([WeightedAccumulation()] if cfg.trainer.accumulate_grad_batches > 1 else []),
        FiniteGuard(folder, cfg.not_finite),
        LearningRateMonitor(),
        EpochTimer(),
        ResourceMonitor(),
        *_own_callbacks(cfg, folder),
        RankConsistency(cfg),
    ]
    bar = cfg.trainer.enable_progress_bar and sys.stdout.isatty()
    callbacks.append(ProgressBar() if bar else EpochLines())
    if cfg.early_stopping is not None:
        callbacks.append(ResumableEarlyStopping(metric, patience=cfg.early_stopping, mode=mode))
    if TRIAL in os.environ:
        callbacks.append(TrialPruning(metric))
    if cfg.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg.ema))
    purge: dict[str, Any] = {"purge_step": from_step} if cfg.logger._target_.endswith("TensorBoardLogger") else {}
    loggers = [
        forgiving(unexpanded(instantiate(cfg.logger, save_dir=str(folder), **purge))),
        forgiving(MetricsCSV(folder, from_step)),
    ]
    callbacks += [Figures(folder, loggers, cfg.figures), Predictions(folder)]
    own: dict[str, Any] = {"callbacks": callbacks, "logger": loggers, "plugins": [CheckpointIO()]}
    own["plugins"].append(rendezvous.cluster_environment() or LightningEnvironment())  # Lightning would guess
    if cfg.trainer.get("profiler") is None:
        own["profiler"] = NoProfiler()
    trainer: Trainer = instantiate(cfg.trainer, **own, enable_progress_bar=bar, default_root_dir=str(folder))
    profiler = typed(trainer).profiler
    if profiler.dirpath is not None:
        profiler.dirpath = folder / profiler.dirpath
    for callback in callbacks:  # Lightning goes through the empty hooks of each in every step
        for name in STEP_HOOKS:
            if getattr(type(callback), name) is getattr(Callback, name):
                setattr(callback, name, None)
    # Lightning's own wait for all processes inside a handler
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def _own_callbacks(cfg: DictConfig, folder: Path) -> Iterator[Callback]:
    """Yield the callbacks that the config defines."""
    for name, node in cfg.callbacks.items():
        callback = instantiate(node)
        if isinstance(callback, ModelCheckpoint):
            confine_checkpoints(callback, folder / "checkpoints" / str(name))
        yield callback
