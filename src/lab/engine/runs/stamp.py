"""`stamp.json`: the command line, code, package versions and machine with which a run was started."""

import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from lab.engine.config.compose import CONF
from lab.engine.config.packages import project
from lab.engine.files import FORMAT, atomic_write
from lab.engine.folder import DIFF

PACKAGE = Path(__file__).parents[2]


def stamp(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The content of `stamp.json`, except the chosen options and the fingerprints of the data and the judges.

    Uncommitted changes of the code are written to `git.diff` in the folder.

    Args:
        folder: the run's folder.
        overrides: the overrides of `lab train`.
    """
    return {
        "format": FORMAT,
        "command": shlex.join(["lab", "train", *overrides]),
        "overrides": list(overrides),
        "began": time.time(),
        "host": platform.node(),
        "git": git_state(folder / DIFF),
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


@cache
def _versions() -> dict[str, str]:
    """The version of each installed package. If one is installed twice, the version that Python imports.

    `Distribution.metadata` parses the description of a package too, which takes 20 times as long.
    """
    versions = {}
    for each in reversed(list(distributions())):
        text = each.read_text("METADATA") or each.read_text("PKG-INFO") or ""
        fields = dict(re.findall(r"^(Name|Version): *(.*\S)", text.partition("\n\n")[0], re.MULTILINE))
        if "Name" in fields:
            versions[fields["Name"]] = fields.get("Version", "")
    return dict(sorted(versions.items()))


def git_state(diff: Path) -> dict[str, Any] | None:
    """The commit and the state of the project, or of the checkout that contains lab; None without either."""
    user_project = project()
    if user_project is None and CONF.parent == PACKAGE:  # a wheel, which has conf/ inside
        return None
    checkout = user_project.folder if user_project else CONF

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
