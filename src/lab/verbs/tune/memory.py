"""How much memory there is, and a limit at which torch says that it is out of it, before the kernel kills the process.

The kernel grants memory that it does not have, and kills whoever uses it. Where a process may only ask for so much
(`RLIMIT_DATA`), `malloc` fails instead, and torch raises.
"""

import contextlib
import math
import resource
from pathlib import Path

import torch
from lightning.pytorch.utilities.memory import is_oom_error

STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
CGROUPS = (  # limit, use, and the part of the use that is files which can be dropped: version 2 and 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
RESERVE = 0.1  # of what is free, for the others
WORDS = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "could not create a primitive")


def limit(device: torch.device, gigabytes: float | None) -> float:
    """Give this process so much memory, or what is free less a tenth, for good; return how much that is, in GB."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        most = float(free) if gigabytes is None else min(gigabytes * 1e9, free)
        torch.cuda.set_per_process_memory_fraction(most / total, device)
        return most / 1e9
    if not STATUS.exists():  # only Linux tells and limits
        return gigabytes or math.inf
    has = _field(STATUS, "VmRSS")
    more = available() * (1 - RESERVE)
    if gigabytes is not None:
        more = min(more, max(0.0, gigabytes * 1e9 - has))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(_field(STATUS, "VmData") + more), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # should it come to that, this process is killed first
    return (has + more) / 1e9


def available() -> float:
    """Bytes that can be had without another process losing any: the machine's, or the container's if less."""
    free = [_field(MEMINFO, "MemAvailable")]
    for root, limit, use, files in CGROUPS:
        for group in _own_groups(root):
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
    """The most that this process has had so far, in GB: on a GPU, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if STATUS.exists():
        return _field(STATUS, "VmHWM") / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def is_out(error: BaseException) -> bool:
    """Whether an error, or the one that it came of, says that there is no memory left: torch's, oneDNN's, Python's."""
    if isinstance(error, MemoryError) or is_oom_error(error) or any(word in str(error) for word in WORDS):
        return True
    origin = error.__cause__ or error.__context__
    return origin is not None and is_out(origin)


def _field(path: Path, name: str) -> float:
    """A line such as `VmData: 12 kB`, in bytes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _own_groups(root: Path) -> list[Path]:
    """The control groups that this process is in, from its own up to the root."""
    version = "0" if root.name == "cgroup" else "memory"
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        number, controllers, path = line.split(":", 2)
        if version in (number, controllers):
            own = root / path.lstrip("/")
            return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return [root]
