"""A run is a folder. Make one, build what its config describes, come back to it later."""

import ctypes
import math
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
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
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf
from torchmetrics import MetricCollection

from lab import checkpoints, external, judge, seconds
from lab.allow import instantiate, read_config
from lab.build import build
from lab.callbacks.accumulation import Accumulation
from lab.callbacks.best import BestCheckpoint, keep_inside
from lab.callbacks.early import Early
from lab.callbacks.figures import Figures
from lab.callbacks.guard import Guard
from lab.callbacks.last import Last
from lab.callbacks.lines import Lines
from lab.callbacks.parity import Parity
from lab.callbacks.predictions import Predictions
from lab.callbacks.progress import ProgressBar
from lab.callbacks.pruning import TRIAL, Pruning
from lab.callbacks.resources import Resources
from lab.callbacks.step_seed import StepSeed
from lab.callbacks.timer import Timer
from lab.check import without_target, wrong_calls
from lab.checkpoints import CheckpointIO
from lab.config import fail, one_line, overrides, unknown
from lab.data.base import Data, TrainingSplit
from lab.data.facts import Facts, stored_facts
from lab.display import say
from lab.ending import ends
from lab.errors import Pruned, RunError, UserError
from lab.folder import (
    BEST,
    CONFIG,
    DATA_REPORT,
    FACTS,
    RESULTS,
    STAMP,
    check_finished,
    flat,
    read_json,
    write_config,
    write_json,
    write_text,
)
from lab.loggers import Metrics, forgiving, unexpanded
from lab.metrics.added import added_metrics, has_several_values
from lab.nets.base import InitFromData
from lab.optimizers import factories
from lab.paths import keep_root
from lab.refusals import check_optimizers
from lab.secrets import redacted
from lab.stamp import stamp
from lab.started import num_threads
from lab.summary import stopped
from lab.tasks.base import Task
from lab.trainer import declared, only

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h
CONTAINER_CORES = Path("/sys/fs/cgroup/cpu.max")


class NoProfiler(PassThroughProfiler):
    """Lightning's makes a generator for each of the sixty things in a step that it does not time: 0.1 ms."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING


NOTHING = nullcontext()
STEP_HOOKS = [name for name in vars(Callback) if name.startswith(("on_train_batch", "on_before_", "on_after_"))]


def keep_freed_memory() -> None:
    """Have glibc keep up to a gigabyte that is free. Other C libraries are left as they are.

    It gives free memory back to the system as soon as there is enough at the end of its heap. Whether that is the case
    after each backward of a CNN is chance. Where it was, an epoch took 1.4 times as long: new pages are zeroed.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # its largest; it would stay at 128 KiB where the other one is set


def settle(cfg: DictConfig) -> None:
    """Set what holds for the whole process, and put right what torch and Lightning get wrong about the machine."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # Lightning's 1 opens the driver's library anew in every step
    keep_freed_memory()
    if num_threads() is not None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else torch.get_num_threads()
    if CONTAINER_CORES.is_file():
        quota, period = CONTAINER_CORES.read_text(encoding="utf-8").split()  # microseconds of work, in so many
        cores = cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
    torch.set_num_threads(min(cores, torch.get_num_threads()))  # torch would take the whole machine's, and crawl


def read_data(cfg: DictConfig, inherited: Facts | None = None, is_checked: bool = False) -> Data:
    """The data of a config, read and split.

    Args:
        cfg: of a run.
        inherited: facts of the run whose weights this run starts from.
        is_checked: another process of the run, or the run before it was resumed, could read every file.
    """
    data = build_data(cfg)
    data.inherited, data.is_checked = inherited, is_checked
    with seconds.announced("Reading the data"):
        data.prepare_data()
        data.setup("fit")
    return data


def build_data(cfg: DictConfig) -> Data:
    """The data of a config, not read yet."""
    given = {"seed": cfg.seed, "cv": cfg.cv, "fold": cfg.fold}
    fail_of_given("data", cfg.data, given)
    data: Data = build(cfg.data, given=given)
    return data


def build_task(cfg: DictConfig, facts: Facts) -> Task:
    """The task of a config around its net; both are filled with the facts of the data that they require."""
    given: dict[str, Any] = {"optimizer": factories(cfg.optimizer), "scheduler": factories(cfg.scheduler)}
    given["seed"] = cfg.seed
    fail_of_given("task", cfg.task, ("net", *given))
    net = build(cfg.net, facts)
    if cfg.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)  # in place: the weights keep their names
    if metrics := dict(added_metrics(cfg, facts)):
        given["metrics"] = metrics
    task: Task = build(cfg.task, facts, given | {"net": net})
    check_optimizers(cfg, task)
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
        Last(folder, ends(cfg), **cfg.checkpoint),
        StepSeed(cfg.seed),
        *([Accumulation()] if cfg.trainer.accumulate_grad_batches > 1 else []),
        Guard(folder, cfg.not_finite),
        LearningRateMonitor(),
        Timer(),
        Resources(),
        *_own_callbacks(cfg, folder),
        Parity(cfg),
    ]
    bar = cfg.trainer.enable_progress_bar and sys.stdout.isatty()
    callbacks.append(ProgressBar() if bar else Lines())
    if cfg.early_stopping is not None:
        callbacks.append(Early(metric, patience=cfg.early_stopping, mode=mode))
    if TRIAL in os.environ:
        callbacks.append(Pruning(metric))
    if cfg.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=cfg.ema))
    purge = {"purge_step": from_step} if cfg.logger._target_.endswith("TensorBoardLogger") else {}
    loggers = [
        forgiving(unexpanded(instantiate(cfg.logger, save_dir=str(folder), **purge))),
        forgiving(Metrics(folder, from_step)),
    ]
    callbacks += [Figures(folder, loggers, cfg.figures), Predictions(folder)]
    own: dict[str, Any] = {"callbacks": callbacks, "logger": loggers, "plugins": [CheckpointIO()]}
    own["plugins"].append(external.cluster() or LightningEnvironment())  # Lightning would guess
    if cfg.trainer.get("profiler") is None:
        own["profiler"] = NoProfiler()
    trainer: Trainer = instantiate(cfg.trainer, **own, enable_progress_bar=bar, default_root_dir=str(folder))
    profiler = declared(trainer).profiler
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
            keep_inside(callback, folder / "checkpoints" / str(name))
        yield callback


def create(cfg: DictConfig, data: Data, folder: Path) -> None:
    """Make a folder a run's: what is known of its data, its stamp, and last its config.

    Raises:
        RunError: the disk is full, or the folder can't be written to.
    """
    cfg.run = None
    keep_root(cfg)
    try:
        write_json(folder / FACTS, data.facts.plain())
        write_text(folder / DATA_REPORT, data.report.full())
        inputs = {"data": data.facts.fingerprint, "judges": judge.fingerprints(cfg)}
        write_json(folder / STAMP, stamp(folder, overrides()) | inputs)
        write_config(folder, cfg)  # last: a folder that has it is a run
    except OSError as error:
        raise RunError(
            f"error: {folder} could not be written ({error.strerror}). Make room, and give the same command again."
        ) from error


def unused(parent: Path) -> Path:
    """A new folder in `parent`, named by the time, with _1, _2, … where that is taken.

    Raises:
        UserError: it can't be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"error: {parent} can't be made: {error.strerror}.") from error
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, n = parent / name, 0
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            n += 1
            folder = parent / f"{name}_{n}"


@contextmanager
def recorded(folder: Path, trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Keep `results.json` true: whatever is put in the dict that this yields, the seconds, and how the run ended."""
    results: dict[str, Any] = {"status": "running"}
    before = read_json(folder / RESULTS, "seconds")["seconds"]["total"] if (folder / RESULTS).exists() else 0.0
    timer = only(trainer, Timer)

    def save(status: str) -> None:
        if trainer.is_global_zero:
            times = {"first_step": timer.first_step, "epochs": timer.epochs, "validations": timer.validations}
            results.update(status=status, seconds=seconds.laps | times | {"total": before + seconds.passed()})
            try:
                write_json(folder / RESULTS, results)
            except OSError as error:
                say(f"warning: {folder / RESULTS} could not be written: {error}", file=sys.stderr)

    save("running")
    try:
        yield results
    except SystemExit as error:  # asked for: see `Stop`
        save("pruned" if isinstance(error, Pruned) else "interrupted")
        if trainer.is_global_zero and not isinstance(error, Pruned):
            say(*stopped(folder, error.code, can_resume=not declared(trainer).overfit_batches))
        raise
    except BaseException as error:
        results["error"] = redacted(f"{type(error).__name__}: {error}")
        save("failed")
        raise
    save("finished")


def load(folder: str | Path, root: Any = None) -> tuple[DictConfig, Data, Task]:
    """Config, data and trained task of a finished run; the data is not read before its `setup`.

    Args:
        folder: the run's.
        root: where its data is now, in place of where it was.

    Raises:
        UserError: the folder is not that of a finished run, or its data has no root.
    """
    folder = Path(folder)
    cfg, data = load_data(folder, root)
    own = cfg.copy()
    for key in [key for key in flat(own.net) if key.rpartition(".")[2] == "weights"]:  # they are in the checkpoint
        OmegaConf.update(own.net, key, None)
    judge.expect(cfg, folder)
    try:
        task = build_task(own, data.facts)
    except InstantiationException as error:
        raise UserError(
            f"error: {folder}: its net can't be built from {CONFIG} and {FACTS}: {one_line(error.__cause__ or error)}"
        ) from error
    restore(task, folder)
    return cfg, data, task.eval()


def load_data(folder: Path, root: Any = None) -> tuple[DictConfig, Data]:
    """Config and data of a finished run, as `load` gives them."""
    check_finished(folder)
    cfg = read_config(folder)
    for problem in (*without_target(cfg), *wrong_calls(cfg, ("data", "net", "task", "optimizer", "scheduler"))):
        raise UserError(f"error: {folder / CONFIG} is damaged: {problem}.")
    if root is not None:
        if "root" not in cfg.data:
            fail([f"data.root={root}: the data of {folder} is in no folder; leave it out."])
        cfg.data.root, cfg.data.tiny = str(root), False
    data = build_data(cfg)
    data.facts = read_facts(data, folder)
    return cfg, data


def read_facts(data: Data, folder: Path) -> Facts:
    """The facts of a run's data.

    Raises:
        UserError: its file is damaged, or describes other data.
    """
    found, features = stored_facts(folder), type(data).features
    if {name: type(feature) for name, feature in found.features.items()} != features:
        expected = ", ".join(f"{name}: {kind.__name__}" for name, kind in features.items())
        raise UserError(f"error: {folder / FACTS} is damaged: the features of {type(data).__name__} are {expected}.")
    return found


def last_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics of the latest validation, which may precede the resume."""
    return only(trainer, Last).validated


def best_score(trainer: Trainer, task: LightningModule, data: Data, folder: Path, metric: str) -> float:
    """The best value of the monitored metric, not the last.

    A run that ends before its first validation is validated now, and its weights are the best that it has.

    Raises:
        UserError: the metric or the last training loss is not a finite number: the training diverged.
    """
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    score = trainer.checkpoint_callback.best_model_score
    if score is None:
        score = torch.tensor(trainer.validate(task, data, verbose=False)[0][metric])
        trainer.save_checkpoint(folder / BEST)
    for name, value in {metric: score, "train/loss": trainer.callback_metrics.get("train/loss", score)}.items():
        if not value.isfinite():
            raise RunError(f"error: {name} is {value.item()}: the training diverged. Try a smaller optimizer.lr.")
    return score.item()


def restore(task: LightningModule, folder: Path) -> None:
    """Give a task the best weights of a run; the averaged ones, where it averaged."""
    try:
        task.load_state_dict(checkpoints.read(folder / BEST)["state_dict"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        fail([f"{folder / BEST}: the checkpoint does not fit this net ({' '.join(str(error).split())[:200]})."])


def validate(trainer: Trainer, task: LightningModule, data: Data) -> dict[str, float]:
    """The validation metrics of the weights that a task has; no curve shows them again."""
    own = declared(trainer)
    loggers, callbacks = own.loggers, own.callbacks
    own.loggers, own.callbacks = [], [c for c in callbacks if isinstance(c, StepSeed | Figures | ProgressBar)]
    try:
        return dict(trainer.validate(task, data, verbose=False)[0])
    finally:
        own.loggers, own.callbacks = loggers, callbacks


def evaluation_trainer(cfg: DictConfig, accelerator: DictConfig) -> Trainer:
    """A trainer as the run's own that writes nothing, on the `accelerator` asked for, if any."""
    try:
        silent = {"logger": False, "enable_checkpointing": False, "profiler": None}
        trainer = instantiate(OmegaConf.merge(cfg.trainer, accelerator), **silent, callbacks=[StepSeed(cfg.seed)])
    except InstantiationException as error:
        fail([f"trainer: {' '.join(str(error.__cause__).split())} Choose another: trainer=cpu."])
    return trainer


def check_monitor(cfg: DictConfig, task: LightningModule) -> None:
    """Raises UserError where no validation will report what is monitored.

    The parts of the loss, and the values of a metric that has several, are known after the first validation; `Guard`
    checks them then.
    """
    metrics = task.get_submodule("metrics.val_")
    assert isinstance(metrics, MetricCollection)
    names, monitored = {f"val/{name}" for name in ("loss", *metrics.keys())}, cfg.monitor.metric
    is_open = any(map(has_several_values, metrics.values(copy_state=False))) and monitored.startswith("val/")
    if monitored not in names and not monitored.startswith("val/loss/") and not is_open:
        fail([f"monitor.metric: {unknown('metric', monitored, names)}"])
