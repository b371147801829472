"""The runs below a folder, from their files alone. Nothing heavy is imported here."""

import contextlib
import fcntl
import fnmatch
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.folder import CONFIG, RESULTS, STAMP, write_json

INDEX = ".runs.json"  # what was read before, by folder; it may be deleted at any time


@dataclass
class Run:
    """A row of the table."""

    folder: str  # below the logs
    overrides: dict[str, str]
    status: str  # finished, failed, interrupted, pruned, running, killed
    began: float  # seconds since 1970
    seconds: float | None = None
    host: str = ""
    commit: str = ""
    parameters: int | None = None
    error: str = ""
    best: dict[str, Any] = field(default_factory=dict)  # metric, value, mode
    test: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """A column: a field of this, an override, `best`, or a test metric."""
        if name in self.overrides:
            return _number(self.overrides[name])
        if name in ("best", self.best.get("metric")):
            return self.best.get("value")
        return self.test[name] if name in self.test else getattr(self, name, None)


def read(logs: Path) -> list[Run]:
    """All runs, the oldest first; only those that changed since the last time are read again."""
    index: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        index = json.loads((logs / INDEX).read_text())
    if not isinstance(index, dict):
        index = {}
    fresh: dict[str, Any] = {}
    runs = []
    for key, changed in _folders(logs, "", index):
        run = None
        with contextlib.suppress(KeyError, TypeError):  # not there, or another version's
            run = Run(**index[key]["run"]) if index[key]["changed"] == changed else None
        run = run or read_run(logs / key, key)
        fresh[key] = {"changed": changed, "run": asdict(run)}
        if run.status == "running" and not is_held(logs / key):
            run.status = "killed"
        runs.append(run)
    if fresh != index:
        with contextlib.suppress(OSError):  # logs of another user
            write_json(logs / INDEX, fresh)
    return sorted(runs, key=lambda run: run.began)


def _folders(logs: Path, key: str, index: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Those that hold a run, and when its results changed. There is none inside another."""
    results = f"{logs}/{key}/{RESULTS}"
    if key in index:  # one look is enough
        with contextlib.suppress(FileNotFoundError):
            yield key, os.stat(results).st_mtime_ns
            return
    with os.scandir(f"{logs}/{key}") as entries:
        below = []
        for entry in entries:
            if entry.name == CONFIG:
                yield key, os.stat(results).st_mtime_ns if os.path.exists(results) else 0
                return
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                below.append(f"{key}/{entry.name}" if key else entry.name)
    for path in below:
        yield from _folders(logs, path, index)


def read_run(folder: Path, key: str = "") -> Run:
    stamp, results = _json(folder / STAMP), _json(folder / RESULTS)
    words = (word.lstrip("+").partition("=") for word in stamp.get("overrides", []))
    return Run(
        folder=key,
        overrides={name: value for name, _, value in words if name not in ("run", "log_dir")},
        status=results.get("status", "interrupted"),
        began=stamp.get("began", (folder / CONFIG).stat().st_mtime),
        seconds=results.get("seconds", {}).get("total"),
        host=stamp.get("host", ""),
        commit=((stamp.get("git") or {}).get("commit") or "")[:7],
        parameters=results.get("parameters"),
        error=next(iter(str(results.get("error", "")).splitlines()), "").rpartition("error: ")[2],
        best=results.get("best", {}),
        test={name: value for name, value in results.get("test", {}).items() if name.count("/") < 2},
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_held(folder: Path) -> bool:
    """Whether a process trains in it."""
    try:
        with open(folder / ".lock", "r+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def select(runs: Sequence[Run], patterns: Sequence[str], conditions: Sequence[str]) -> list[Run]:
    """Those whose folder fits one of the patterns and that meet all conditions: `net=mlp`, `best>0.9`.

    Raises:
        UserError: a condition is none.
    """
    stems = [pattern.rstrip("/") for pattern in patterns]
    found = [
        run for run in runs
        if not stems or any(fnmatch.fnmatch(run.folder, s) or run.folder.startswith(f"{s}/") for s in stems)
    ]  # fmt: skip
    for condition in conditions:
        sign = next((sign for sign in ("!=", ">=", "<=", "=", ">", "<") if sign in condition), None)
        if sign is None:
            raise UserError(f"error: where {condition}: a condition is KEY=VALUE, or with !=, >, <, >=, <=")
        name, _, text = condition.partition(sign)
        found = [run for run in found if _holds(run.value(name), sign, _number(text))]
    return found


def _holds(value: Any, sign: str, other: Any) -> bool:
    if sign in ("=", "!="):
        return (str(value) == str(other)) == (sign == "=")
    if not isinstance(value, int | float) or not isinstance(other, int | float):
        return False
    return {">": value > other, "<": value < other, ">=": value >= other, "<=": value <= other}[sign]


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
