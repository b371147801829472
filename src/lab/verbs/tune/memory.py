"""A limit of the memory that makes torch raise an error before the kernel kills the process.

Linux overcommits memory, and kills a process that uses too much. With a limit on a process's data (`RLIMIT_DATA`),
`malloc` fails instead, and torch raises an error.
"""

import contextlib
import math
import resource
from pathlib import Path

import torch
from lightning.pytorch.utilities.memory import is_oom_error

from lab.engine.memory import available, field

STATUS = Path("/proc/self/status")
RESERVE = 0.1  # the share of the free memory that is left to other processes
WORDS = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "could not create a primitive")


def limit(device: torch.device, gigabytes: float | None) -> float:
    """Limit the memory of this process for the rest of its life.

    Args:
        device: a GPU limits the GPU's memory, the CPU the process's data.
        gigabytes: the limit; None: the free memory minus `RESERVE`.

    Returns:
        The limit in GB.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        most = float(free) if gigabytes is None else min(gigabytes * 1e9, free)
        torch.cuda.set_per_process_memory_fraction(most / total, device)
        return most / 1e9
    if not STATUS.exists():  # not Linux
        return gigabytes or math.inf
    has = field(STATUS, "VmRSS")
    more = available() * (1 - RESERVE)
    if gigabytes is not None:
        more = min(more, max(0.0, gigabytes * 1e9 - has))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(field(STATUS, "VmData") + more), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # if memory still runs out, kill this process first
    return (has + more) / 1e9


def peak(device: torch.device) -> float:
    """The peak memory of this process so far, in GB, on the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if STATUS.exists():
        return field(STATUS, "VmHWM") / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error or one of its causes is an out-of-memory error of torch, oneDNN or Python."""
    if isinstance(error, MemoryError) or is_oom_error(error) or any(word in str(error) for word in WORDS):
        return True
    origin = error.__cause__ or error.__context__
    return origin is not None and is_out_of_memory(origin)
