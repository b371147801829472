import math
import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from lab.engine.launch.environment import num_threads
from lab.engine.training.lightning_quirks import keep_freed_memory, search_no_missing_gpu

CONTAINER_CORES = Path("/sys/fs/cgroup/cpu.max")


def set_up_process(cfg: DictConfig) -> None:
    """Set the precision of matrix products, the allocator and the number of threads of this process."""
    torch.set_float32_matmul_precision(cfg.matmul_precision)
    keep_freed_memory()
    search_no_missing_gpu()
    if num_threads() is None:
        torch.set_num_threads(min(available_cores(), torch.get_num_threads()))


def available_cores() -> int:
    """The number of cores that this process may use. torch counts all of the machine, also in a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else torch.get_num_threads()
    if not CONTAINER_CORES.is_file():
        return cores
    quota, period = CONTAINER_CORES.read_text(encoding="utf-8").split()  # microseconds of CPU time in each period
    return cores if quota == "max" else min(cores, math.ceil(int(quota) / int(period)))
