"""The memory that a process can use."""

import contextlib
import math
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS = (  # of version 2 and 1: folder, limit, use, and the part of the use that is droppable file cache
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available() -> float:
    """The bytes that can be allocated without swapping: the machine's, or the container's if fewer; inf: unknown."""
    if not MEMINFO.exists():  # not Linux
        return math.inf
    free = [field(MEMINFO, "MemAvailable")]
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


def field(path: Path, name: str) -> float:
    """The value of a line such as `VmData: 12 kB`, in bytes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _control_groups(root: Path) -> list[Path]:
    """The control groups of this process, from the innermost to the root."""
    version, own = "0" if root.name == "cgroup" else "memory", Path("/proc/self/cgroup")
    for line in own.read_text(encoding="utf-8").splitlines() if own.exists() else ():
        number, controllers, path = line.split(":", 2)
        if version in (number, controllers):
            innermost = root / path.lstrip("/")
            return [innermost, *(parent for parent in innermost.parents if parent.is_relative_to(root))]
    return [root]
