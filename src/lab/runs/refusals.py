"""Settings that Lightning accepts, but with which a run could not test its best weights or resume exactly."""

import re
from collections.abc import Iterator
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig

from lab.data.base import Data
from lab.engine.config.allow import locate
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError
from lab.engine.launch import rendezvous
from lab.tasks.optimizers import by_key

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
CONVERTED = re.compile(r"64|(64|16|bf16)-true|transformer-engine.*")  # they convert the net, but no batch or metric
POSITIVE = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")  # Lightning divides by them
SCALED = ("16-mixed", "16")
MIXED = ("bf16-mixed", "bf16", *SCALED)
# Strategies in which each process has all weights, and whose gradients may come from several losses
PLAIN = re.compile(
    r"auto|ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_false)?|DDPStrategy|SingleDeviceStrategy"
)
# Callbacks of Lightning that have no state, or whose checkpoint holds all of it: a run with them resumes exactly
RESUMABLE = (
    "Callback", "DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging", "LambdaCallback", "LearningRateMonitor",
    "ModelCheckpoint", "ModelSummary", "RichModelSummary", "Timer", "WeightAveraging",
)  # fmt: skip


def refusals(cfg: DictConfig) -> Iterator[str]:
    """A line for each setting that is refused before the data is read."""
    trainer = cfg.trainer
    if trainer.get("fast_dev_run"):
        yield "trainer.fast_dev_run: it writes no checkpoint; debug=two_batches runs every stage"
    if trainer.get("enable_checkpointing") is False:
        yield "trainer.enable_checkpointing=false: a run needs its checkpoints; remove it"
    optimizers = by_key("optimizer", cfg.optimizer).values()
    if len(optimizers) > 1:
        yield from refused_with_several_optimizers(cfg)
    elif (
        trainer.get("gradient_clip_val") and str(trainer.precision) in MIXED and any(o.get("fused") for o in optimizers)
    ):
        yield "trainer.gradient_clip_val: it needs optimizer.fused=false with mixed precision"
    if CONVERTED.fullmatch(str(trainer.precision)):
        yield f"trainer.precision={trainer.precision}: not supported; choose one of {', '.join(PRECISIONS)}"
    for key in POSITIVE:
        if isinstance(value := trainer.get(key), int | float) and value <= 0:
            yield f"trainer.{key}={value}: should be greater than 0"
    for stage, reason in (
        ("train", "training needs at least one batch"),
        ("val", "validation selects the best weights"),
        ("test", "a run ends with the test of its best weights"),
    ):
        if trainer.get(f"limit_{stage}_batches") == 0:
            yield f"trainer.limit_{stage}_batches=0: {reason}"
    for name, node in cfg.callbacks.items():
        kind = _of_lightning(node)
        if kind is not None and issubclass(kind, ProgressBar):
            yield f"callbacks.{name}: lab has a progress bar; remove {kind.__name__}"
        elif kind is not None and kind.__name__ not in RESUMABLE:
            yield (
                f"callbacks.{name}: a run with {kind.__name__} cannot be resumed exactly, because its state is not in"
                " the checkpoint; remove it"
            )


def refused_with_several_optimizers(cfg: DictConfig) -> Iterator[str]:
    """A line for each setting that is refused with several optimizers."""
    trainer = cfg.trainer
    strategy = trainer.get("strategy", "auto")
    options = strategy if isinstance(strategy, DictConfig) else {"_target_": str(strategy)}
    name = options["_target_"].rpartition(".")[2]
    reason = "it supports one loss, and each of several optimizers has a loss"
    if str(trainer.precision) in SCALED:
        yield f"trainer.precision={trainer.precision}: {reason}; choose bf16-mixed or 32-true"
    if not PLAIN.fullmatch(name) or options.get("find_unused_parameters") or options.get("static_graph"):
        yield f"trainer.strategy={name}: {reason}; choose auto or ddp"
    if cfg.compile:
        yield f"compile={cfg.compile}: a compiled net cannot be differentiated once per optimizer; remove it"


def _of_lightning(node: Any) -> type | None:
    """The class of Lightning that a callback has or extends."""
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        return None
    try:
        kind = locate(node["_target_"])
    except ImportError:
        return None  # the check of the arguments reports it
    if not isinstance(kind, type) or not issubclass(kind, Callback):
        return None
    return next(base for base in kind.__mro__ if base.__module__.startswith("lightning."))


def check_resumable(cfg: DictConfig) -> None:
    """Raises UserError if a run that has begun training cannot be resumed."""
    if cfg.trainer.get("overfit_batches"):
        raise UserError(
            f"error: trainer.overfit_batches={cfg.trainer.overfit_batches}: such a run cannot be resumed exactly;"
            " start a new one in another folder."
        )


def num_processes(cfg: DictConfig) -> int:
    """The number of processes that share the batches of a run."""
    if (cluster := rendezvous.cluster_environment()) is not None:
        return cluster.world_size()
    if cfg.trainer.get("devices") == 1 and cfg.trainer.get("num_nodes", 1) == 1:
        return 1
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False)
    return int(trainer.num_devices * trainer.num_nodes)


def _num_batches(cfg: DictConfig, data: Data, stage: str) -> int:
    """The number of batches of a split in each process. Data asks the trainer for its rank; there is none yet."""
    data.rank_and_size = lambda: (0, num_processes(cfg))  # type: ignore[method-assign]
    try:
        return len(getattr(data, f"{stage}_dataloader")())
    finally:
        del data.rank_and_size


def check_lengths(cfg: DictConfig, data: Data) -> None:
    """Refuse limits that leave no batch of a split, before training starts.

    Raises:
        UserError: a line for each problem.
    """
    trainer = cfg.trainer
    limits = {stage: trainer.get(f"limit_{stage}_batches", 1.0) for stage in ("train", "val", "test")}
    names = {stage: f"trainer.limit_{stage}_batches" for stage in limits}
    if trainer.get("overfit_batches"):
        limits |= dict.fromkeys(("train", "val"), trainer.overfit_batches)
        names |= dict.fromkeys(("train", "val"), "trainer.overfit_batches")
    each = " in each process" if num_processes(cfg) > 1 else ""
    kept, problems, every = {}, [], trainer.get("val_check_interval")
    for stage, limit in limits.items():
        if limit in (None, 1.0) and not isinstance(limit, int) and not (stage == "train" and type(every) is int):
            continue  # no limit; counting the batches may be slow
        number = _num_batches(cfg, data, stage)
        kept[stage] = int(number * limit) if isinstance(limit, float) else min(number, limit or number)
        if number and not kept[stage]:
            problems.append(f"{names[stage]}={limit}: less than one of the {number} batches of the {stage} split{each}")
    by_epoch = trainer.get("check_val_every_n_epoch", 1) is not None
    if type(every) is int and by_epoch and every > kept["train"] > 0:
        problems.append(
            f"trainer.val_check_interval={every}: an epoch has {kept['train']} batches{each}; choose a smaller one, or"
            " trainer.check_val_every_n_epoch=null, which counts over epochs"
        )
    if problems:
        raise UserError(*(f"error: {problem}" for problem in problems))
