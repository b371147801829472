"""Workarounds for Lightning 2.6.6, torch 2.15 and torchmetrics 1.9.0, a function for each.

`tests/runs/test_lightning_quirks.py` has a test for each that fails once the workaround is no longer needed.
A digits epoch is 36 steps of 15 to 30 CPU-milliseconds on one core. A workaround that saves less than 1 % is not kept.
Workarounds for imports are in `import_quirks.py`.
"""

import atexit
import ctypes
import logging
import math
import os
import time
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path, PurePath
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.distributed import _destroy_dist_connection
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn
from torch.optim import Optimizer
from torch.utils.tensorboard.summary import hparams
from torchmetrics import MeanMetric, Metric, MetricCollection

WARNINGS = (  # at every start, and no user can act on them
    "The '.*_dataloader' does not have many workers",
    "GPU available but not used",
    "The number of training batches",
    "`isinstance\\(treespec, LeafSpec\\)`",
    "Checkpoint directory .* exists and is not empty",
    "`ModelCheckpoint\\(monitor=.*could not find the monitored key",
    "You're resuming from a checkpoint that ended before the epoch ended",  # lab's sampler resumes within an epoch
    "It is recommended to use `self.log\\(.*sync_dist=True",  # lab's metrics are computed over all processes
    "The `srun` command is available on your system",
    "Be aware that when using `ckpt_path`",  # early_stopping may be changed to null
    "You requested to overfit but enabled .* dataloader shuffling",
    "The AccumulateGrad node's stream does not match",  # Lightning builds DDP on another stream
    "Glyph .* missing from font",  # matplotlib: no installed font has a script's letters
)
BATCH_HOOKS = (
    *(f"on_{stage}_batch_{end}" for stage in ("train", "validation", "test", "predict") for end in ("start", "end")),
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def filter_warnings() -> None:
    """Silence Lightning's messages at every start, and the `WARNINGS` that no user can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory. No effect with other C libraries.

    glibc returns the free end of its heap to the system. Whether that happens after each backward pass is chance, and
    the kernel zeroes every page that comes back.

    Saves 12 to 56 % of a digits epoch, 25 % in the median (6 pairs; torch 2.15, glibc 2.36).
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the maximum; setting the other one fixes it at 128 KiB


def seed_generators(seed: int) -> None:
    """Seed torch's generators of the CPU and of a GPU in use.

    `torch.manual_seed` also formats the stack trace, for a GPU that is initialized later.

    Saves 0.9 ms of each step, 3 % of a digits epoch (6 pairs; torch 2.15).
    """
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def search_no_missing_gpu() -> None:
    """Let torch remember that the machine has no GPU.

    Lightning sets a variable that makes torch load NVIDIA's management library whenever it looks for a GPU. Adam looks
    for one in each step, and the system searches all its folders for a library that is missing.

    Saves 0.17 ms of each step, 1 % of a digits epoch (120 blocks of 10 steps in turn; Lightning 2.6.6, torch 2.15).
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


class NoProfiler(PassThroughProfiler):
    """Measures nothing. Lightning's `PassThroughProfiler` builds a context manager for each of 90 calls in a step.

    Saves, together with `skip_empty_hooks`, 0.22 ms of each step, 1.5 % of a digits epoch (120 blocks of 10 steps in
    turn; Lightning 2.6.6).
    """

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


def skip_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Let Lightning skip the hooks of a batch that a callback does not define.

    Lightning calls each hook of each callback, also those of the base class, which are empty. It skips a hook that is
    not callable (Lightning 2.6.6). `NoProfiler` has the saving.
    """
    for callback in callbacks:
        for name in BATCH_HOOKS:
            if getattr(getattr(callback, name), "__func__", None) is getattr(Callback, name):
                setattr(callback, name, None)


def is_logging_step(trainer: Any) -> bool:
    """Return whether the loggers keep the values of this training step: of the first, and every `log_every_n_steps`.

    `LightningModule.log` prepares a value for loggers that drop it.

    Saves 0.7 ms of each other step, 2.4 % of a digits epoch (6 pairs; Lightning 2.6.6).
    """
    every, step = trainer.log_every_n_steps, trainer.global_step
    return bool(every) and (step == 0 or (step + 1) % every == 0)


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep the handlers of `lab.engine.launch.signals` while the trainer fits.

    Lightning's handler of SIGTERM broadcasts to all processes from within the handler: it waits forever where another
    process is in a collective operation, and the exit code is 0. Its handler for SLURM requeues the job as well
    (Lightning 2.6.6).
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def loop_counters(trainer: Trainer) -> tuple[int, int]:
    """Return the two counters that `restore_loop_counters` needs."""
    loop = trainer.fit_loop.epoch_loop
    return loop._batches_that_stepped, loop.batch_progress.total.ready


def restore_loop_counters(trainer: Trainer, counters: tuple[int, int]) -> None:
    """Set the counters of a resumed loop at the start of its first batch.

    Lightning counts a batch twice if the checkpoint was saved in `on_train_batch_start`, so the curves of a resumed run
    would be shifted by a step (Lightning 2.6.6).
    """
    loop = trainer.fit_loop.epoch_loop
    loop._batches_that_stepped, loop.batch_progress.total.ready = counters


def forget_schedule_length(schedules: Iterable[dict[str, Any]]) -> None:
    """Remove the run's length from the states of schedules, in place.

    `OneCycleLR.load_state_dict` restores `total_steps` and the phases that follow from it, so a run that resumes with
    another `max_epochs` would keep the old length (torch 2.15).
    """
    for schedule in schedules:
        for state in (schedule, *schedule.get("schedules", {}).values()):
            state.pop("total_steps", None)
            state.pop("_schedule_phases", None)


def keep_memory_format(optimizer: Optimizer) -> None:
    """Give the state that an optimizer loads the memory format of its parameters.

    The fused optimizers read a parameter and its state in the order of memory: with the state of a run whose
    `channels_last` was different, such as a run on a GPU, they would mix up the weights of a filter (torch 2.15).
    """

    def convert(optimizer: Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)

    optimizer.register_load_state_dict_post_hook(convert)


def rendezvous_in_file(trainer: Trainer, path: str) -> None:
    """Let the ranks of a trainer find each other through a file.

    Lightning passes an address and a port to torch, whose TCP store listens on all network interfaces, whatever the
    address. Lightning leaves a process group alone that is initialized (Lightning 2.6.6, torch 2.15).
    """
    strategy: Any = trainer.strategy
    set_up = strategy.setup_environment

    def setup_environment() -> None:
        if not torch.distributed.is_initialized():
            device, backend = strategy.root_device, strategy._get_process_group_backend()
            strategy.accelerator.setup_device(device)
            strategy.set_world_ranks()
            torch.distributed.init_process_group(
                backend,
                init_method=f"file://{path}",
                timeout=strategy._timeout,
                rank=strategy.global_rank,
                world_size=strategy.world_size,
                device_id=device if device.type != "cpu" else None,
            )
            if backend == "nccl":
                atexit.register(_destroy_dist_connection)
        set_up()

    strategy.setup_environment = setup_environment


class ThrottledProgressBar(TQDMProgressBar):
    """Lightning's progress bar, drawn at most ten times a second.

    Lightning draws it in every step, or in every n-th, which is too rare for slow steps.

    Saves 0.6 ms of each step in a terminal, 1.9 % of a digits epoch (5 pairs; Lightning 2.6.6).
    """

    interval = 0.1  # seconds

    def __init__(self) -> None:
        super().__init__()
        self._next_update = 0.0

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        if not self.is_enabled or (now < self._next_update and current != total):
            return False
        self._next_update = now + self.interval
        return True


class _LiteralBoard(TensorBoardLogger):
    @property
    def log_dir(self) -> str:
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return str(Path(self.root_dir, version, self.sub_dir or ""))


def keep_dollar_signs(logger: Logger) -> Logger:
    """Return the logger. `TensorBoardLogger` replaces `$NAME` in its folder by an environment variable (2.6.6)."""
    if type(logger) is TensorBoardLogger:
        logger.__class__ = _LiteralBoard  # a config names Lightning's class
    return logger


def add_summary(logger: TensorBoardLogger, summary: Any, step: int | None = None) -> None:
    """Write a summary as it is: `SummaryWriter.add_image` would decode and compress a PNG again (torch 2.15)."""
    logger.experiment._get_file_writer().add_summary(summary, step)


def add_hyperparameters(logger: TensorBoardLogger, values: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Write hyperparameters and metrics for TensorBoard's HParams page.

    The first of torch's three summaries names the columns for all runs below --logdir, from whichever run TensorBoard
    reads first. Without it, TensorBoard collects the columns from all runs (torch 2.15, TensorBoard 2.20).
    """
    _, *session = hparams(values, metrics)
    for summary in session:
        add_summary(logger, summary)


def confine_checkpoints(callback: ModelCheckpoint, folder: Path) -> None:
    """Let a `ModelCheckpoint` write to `folder`, and delete files only there.

    Its state holds absolute paths of files that it deletes: after a resume on another machine, or from a checkpoint of
    another person, these may be any files (Lightning 2.6.6).
    """
    callback.dirpath = str(folder)
    load = callback.load_state_dict

    def load_state_dict(state: dict[str, Any]) -> None:
        def moved(path: Any) -> str:  # subfolders stay: a metric's name may have a slash
            relative = PurePath(os.path.relpath(str(path), str(state["dirpath"]) or "/") if path else "")
            return str(folder / relative) if relative.suffix == ".ckpt" and ".." not in relative.parts else ""

        best = {moved(path): score for path, score in dict(state["best_k_models"]).items() if moved(path)}
        paths = {key: moved(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        load(state | paths | {"dirpath": str(folder), "best_k_models": best})

    callback.load_state_dict = load_state_dict  # type: ignore[method-assign,assignment]


def is_compiled(module: nn.Module) -> bool:
    """Return whether `module.compile()` was called: forward hooks do not run in it (torch 2.15)."""
    return module._compiled_call_impl is not None


def undo_compile(module: nn.Module) -> None:
    """Undo `module.compile()`, for which torch has no method; `torch.export` needs the plain module (torch 2.15)."""
    module._compiled_call_impl = None


def mean_metric() -> MeanMetric:
    """Return a mean that a NaN makes NaN.

    torchmetrics drops a NaN by default; its `nan_strategy="disable"` also ignores the weights (1.9.0).
    """
    return MeanMetric(nan_strategy=math.nan)


def without_shared_state(metrics: MetricCollection) -> MetricCollection:
    """Return the same metrics, none of which shares the state of another.

    torchmetrics lets metrics share a state that is equal after the first batch, though each takes other outputs
    (1.9.0).
    """
    items: dict[str, Metric | MetricCollection] = dict(metrics.items(keep_base=True, copy_state=False))
    return MetricCollection(items, prefix=metrics.prefix, postfix=metrics.postfix, compute_groups=False)


def taken_by(metric: Metric, outputs: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs that the arguments of `metric.update` name.

    `MetricCollection.update` selects them, but torchmetrics has no public method for it (1.9.0).
    """
    selected: dict[str, Any] = metric._filter_kwargs(**outputs)
    return selected
