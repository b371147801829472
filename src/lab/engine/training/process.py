import ctypes
import math
import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from lab.engine.launch.environment import num_threads


def filter_warnings() -> None:
    """Silence what Lightning says at every start and nobody can act on."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for noise in (
        "The '.*_dataloader' does not have many workers",
        "GPU available but not used",
        "The number of training batches",
        "`isinstance\\(treespec, LeafSpec\\)`",
        "Checkpoint directory .* exists and is not empty",
        "Experiment logs directory .* exists",
        "Starting from v1.9.0, `tensorboardX`",
        "`ModelCheckpoint\\(monitor=.*could not find the monitored key",
        "You're resuming from a checkpoint that ended before the epoch ended",  # our sampler begins where it ended
        "It is recommended to use `self.log\\(.*sync_dist=True",  # the metrics are those of all processes already
        "The `srun` command is available on your system",  # which is no reason to use it
        "Be aware that when using `ckpt_path`",  # early_stopping may be changed to null
        "You requested to overfit but enabled train dataloader shuffling",
        "The AccumulateGrad node's stream does not match",  # Lightning makes DDP on a stream of its own
        "Glyph .* missing from font",  # of a picture that names things in a script which no font here has
    ):
        warnings.filterwarnings("ignore", noise)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h


CONTAINER_CORES = Path("/sys/fs/cgroup/cpu.max")


def keep_freed_memory() -> None:
    """Have glibc keep up to a gigabyte that is free. Other C libraries are left as they are.

    It gives free memory back to the system as soon as there is enough at the end of its heap. Whether that is the case
    after each backward of a CNN is chance. Where it was, an epoch took 1.4 times as long: new pages are zeroed.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # its largest; it would stay at 128 KiB where the other one is set


def set_up_process(cfg: DictConfig) -> None:
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
