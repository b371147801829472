"""Where a number came from: code, versions, machine, command line."""

import os
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from lab.engine.config.compose import CONF
from lab.engine.config.packages import project
from lab.engine.folder import DIFF, atomic_write


def stamp(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What is needed to do the run again; the code's uncommitted changes are put in `folder/git.diff`."""
    return {
        "command": shlex.join(["lab", "train", *overrides]),
        "overrides": list(overrides),
        "began": time.time(),
        "host": platform.node(),
        "git": _git(folder / DIFF),
        "python": platform.python_version(),
        "packages": _versions(),
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _versions() -> dict[str, str]:
    """Of each installed distribution that has a name; of two of one name, the one that is imported."""
    found = {d.name: d.version for d in reversed(list(distributions())) if d.name}
    return dict(sorted(found.items()))


def _git(diff: Path) -> dict[str, Any] | None:
    """Commit and state of the project, else of the checkout that this code is in; None: of neither."""
    own = project()
    if own is None and CONF.parent.name == "lab":
        return None
    checkout = own.folder if own else CONF

    def git(*arguments: str) -> bytes:
        command = ["git", "-C", str(checkout), "-c", "color.ui=false", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    try:
        status = git("status", "--porcelain", "--", ":/").decode(errors="replace").splitlines()
        changes = git("diff", "--no-ext-diff", "--binary", "HEAD", "--", ":/")
        if changes:
            with atomic_write(diff) as temporary:
                temporary.write_bytes(changes)
        untracked = [line[3:] for line in status if line.startswith("??")]
        return {"commit": git("rev-parse", "HEAD").decode().strip(), "dirty": bool(status), "untracked": untracked}
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
