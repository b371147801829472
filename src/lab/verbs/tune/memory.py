"""The available memory, and a limit that makes torch raise an error before the kernel kills the process.

Linux overcommits memory, and kills a process that uses too much. With a limit on a process's data (`RLIMIT_DATA`),
`malloc` fails instead, and torch raises an error.
"""

import contextlib
import math
import resource
from pathlib import Path

import torch
from lightning.pytorch.utilities.memory import is_oom_error

STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
CGROUPS = (  # of version 2 and 1: folder, limit, use, and the part of the use that is droppable file cache
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
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
    has = _field(STATUS, "VmRSS")
    more = available() * (1 - RESERVE)
    if gigabytes is not None:
        more = min(more, max(0.0, gigabytes * 1e9 - has))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(_field(STATUS, "VmData") + more), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # if memory still runs out, kill this process first
    return (has + more) / 1e9


def available() -> float:
    """The bytes that can be allocated without swapping: the machine's, or the container's if that is less."""
    free = [_field(MEMINFO, "MemAvailable")]
    for root, limit, use, files in CGROUPS:
        for group in _control_groups(root):
            with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
                droppable = next(
                    int(line.split()[1])
                    for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()
                    if line.startswith(f"{files} ")
                )
                most, used = (int((group / name).read_text(encoding="utf-8")) for name in (limit, use))
                free.append(most - used + droppable)
    return max(0.0, min(free))


def peak(device: torch.device) -> float:
    """The peak memory of this process so far, in GB, on the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if STATUS.exists():
        return _field(STATUS, "VmHWM") / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error or one of its causes is an out-of-memory error of torch, oneDNN or Python."""
    if isinstance(error, MemoryError) or is_oom_error(error) or any(word in str(error) for word in WORDS):
        return True
    origin = error.__cause__ or error.__context__
    return origin is not None and is_out_of_memory(origin)


def _field(path: Path, name: str) -> float:
    """The value of a line such as `VmData: 12 kB`, in bytes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _control_groups(root: Path) -> list[Path]:
    """The control groups of this process, from the innermost to the root."""
    version = "0" if root.name == "cgroup" else "memory"
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if version in (number, controllers):
            innermost = root / path.lstrip("/")
            return [innermost, *(parent for parent in innermost.parents if parent.is_relative_to(root))]
    return [root]
