"""The runs below a folder, from their files alone. Nothing heavy is imported here."""

import contextlib
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab.engine.errors import UserError
from lab.engine.folder import CONFIG, RESULTS, STAMP, read_json, read_text, write_json
from lab.engine.keys import key_of
from lab.engine.lock import is_held
from lab.engine.records import Best, Moment

UNFINISHED = ("running", "interrupted", "damaged")  # as the files say, which a process may be about to write
INDEX = ".runs.json"  # what was read before, by folder; it may be deleted at any time
CONDITION = re.compile("([^!=<>]+)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
ARROWS = {"max": "↑", "min": "↓"}  # whether a larger or a smaller value of a metric is better
WORDS = {"true": True, "false": False, "null": None}
KEY = re.compile(r"((?:  )*)([^:\s]+):")  # of a line of config.yaml, as OmegaConf writes it
CHANGE_NO_NUMBER = (  # keys of a config; the data is compared by its fingerprint
    "name.", "run.", "log_dir.", "seeds.", "sweep.", "launcher.", "figures.", "logger.", "checkpoint.", "data.root.",
    "data.num_workers.", "data.worker_timeout.", "trainer.enable_progress_bar.", "trainer.log_every_n_steps.",
)  # fmt: skip
SPACE = re.compile(r"\s*([,:\[\]{}])\s*")  # which a list or a mapping may have
FIELDS = {  # by the names of the table's columns
    "run": "folder", "status": "status", "seconds": "seconds", "host": "host", "commit": "commit",
    "params": "parameters", "parameters": "parameters", "why": "error", "error": "error",
}  # fmt: skip


@dataclass
class Run:
    """A row of the table."""

    folder: str  # below the logs
    overrides: dict[str, str]
    status: str  # finished, failed, interrupted, pruned, running, killed, damaged
    began: Moment
    sample: str  # a digest of config, data and commit: runs that share it repeat each other
    seconds: float | None = None
    host: str = ""
    commit: str = ""
    parameters: int | None = None
    error: str = ""
    best: dict[str, Any] = field(default_factory=dict)  # metric, value, mode
    test: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """An override, `best` or the metric that it is of, a test metric, or what a column of the table shows."""
        if name in self.overrides:
            return parsed(self.overrides[name])
        if name in ("best", self.best.get("metric")):
            return self.best.get("value")
        if name == "began":
            return datetime.fromtimestamp(self.began).isoformat(" ", "minutes")
        return self.test[name] if name in self.test else getattr(self, FIELDS.get(name, ""), None)


RUN = TypeAdapter(Run)


def read(logs: Path) -> list[Run]:
    """All runs, the oldest first; only those that changed since the last time are read again."""
    index: dict[str, Any] = {}
    if (logs / INDEX).exists():
        with contextlib.suppress(UserError):  # it may be deleted, and so it may be damaged
            index = read_json(logs / INDEX)
    fresh: dict[str, Any] = {}
    runs = []
    for key, changed in _folders(logs, "", index):
        run: Run | None = None
        with contextlib.suppress(KeyError, TypeError, ValueError):  # not there, or another version's
            if index[key]["changed"] == changed:
                known = RUN.validate_python(index[key]["run"])
                known.best = Best.model_validate(known.best).model_dump() if known.best else {}
                run = known
        run = run or read_run(logs / key, key)
        fresh[key] = {"changed": changed, "run": asdict(run)}
        if run.status in UNFINISHED:
            held = is_held(logs / key)  # None: it can't be known, and the files' word stands
            killed = held is False and run.status == "running"
            run.status = "running" if held else "killed" if killed else run.status
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
            yield key, os.lstat(results).st_mtime_ns
            return
    try:
        entries = list(os.scandir(f"{logs}/{key}"))
    except OSError:  # another user's
        return
    if any(entry.name == CONFIG for entry in entries):
        yield key, os.lstat(results).st_mtime_ns if os.path.lexists(results) else 0
        return
    visible = (e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    below = [f"{key}/{name}" if key else name for name in visible]
    for path in below:
        yield from _folders(logs, path, index)


def read_run(folder: Path, key: str = "") -> Run:
    """A run, of which one file may be damaged: the row then says so."""
    stamp, damage = _read(folder / STAMP)
    results, more = _read(folder / RESULTS)
    words = [word for word in stamp.get("overrides", []) if word[:1] != "~"]
    began = stamp.get("began")
    error = next(iter(str(results.get("error", "")).splitlines()), "").rpartition("error: ")[2]
    return Run(
        folder=key,
        overrides={key_of(w): w.partition("=")[2] for w in words if key_of(w) not in ("run", "log_dir")},
        status="damaged" if damage or more else results.get("status", "interrupted"),
        began=began if began is not None else min(max((folder / CONFIG).lstat().st_mtime, 0.0), 2.0**36),
        sample=_sample(folder, stamp),
        seconds=results["seconds"]["total"] if results else None,
        host=stamp.get("host", ""),
        commit=(stamp.get("git") or {}).get("commit", "")[:7],
        parameters=results.get("parameters"),
        error=damage or more or error,
        best=results.get("best") or {},
        test={name: value for name, value in results.get("test", {}).items() if name.count("/") < 2},
    )


def _sample(folder: Path, stamp: dict[str, Any]) -> str:
    try:
        lines = read_text(folder / CONFIG).split("\n")
    except UserError:
        return str(folder)
    digest = hashlib.sha256(f"{(stamp.get('git') or {}).get('commit')} {stamp.get('data')}".encode())
    keys: list[str] = []
    for line in lines:
        if key := KEY.match(line):
            keys[len(key[1]) // 2 :] = [key[2]]
        if not f"{'.'.join(keys)}.".startswith(CHANGE_NO_NUMBER):
            digest.update(f"{line}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """What a file holds, and what is wrong with it; one that is not there is empty."""
    if not os.path.lexists(path):
        return {}, ""
    try:
        return read_json(path), ""
    except UserError as error:
        return {}, str(error).removeprefix("error: ")


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
        parts = CONDITION.fullmatch(condition)
        if parts is None:
            raise UserError(f"error: where {condition}: expected KEY=VALUE, or another of !=, >, <, >=, <=")
        name, sign, text = parts.groups()
        if name == "best":
            name = the_best(found, f"where {condition}")
        found = [run for run in found if _holds(run.value(name), sign, text)]
    return found


def monitored(runs: Sequence[Run]) -> dict[str, str]:
    """The metrics that choose these runs' best weights, and the arrow of each."""
    pairs = dict.fromkeys((run.best["metric"], run.best.get("mode", "min")) for run in runs if run.best)
    names = dict.fromkeys(name for name, _ in pairs)
    return {name: "".join(ARROWS.get(mode, "") for other, mode in pairs if other == name) for name in names}


def the_best(runs: Sequence[Run], what: str) -> str:
    """The metric that `best` means.

    Raises:
        UserError: these runs monitor several.
    """
    arrows = monitored(runs)
    if len(arrows) > 1 or any(len(arrow) > 1 for arrow in arrows.values()):
        several = ", ".join(f"{name} {arrow}" for name, arrow in arrows.items())
        raise UserError(
            f"error: {what}: these runs monitor several metrics ({several}); name one of them, or select fewer runs."
        )
    return next(iter(arrows), "best")


def _holds(value: Any, sign: str, text: str) -> bool:
    other = parsed(text)
    if sign in ("=", "!="):
        return (value == other or str(value) == text) == (sign == "=")
    if isinstance(value, str):
        other = text
    elif value is None or not isinstance(other, int | float):
        return False
    return {">": value > other, "<": value < other, ">=": value >= other, "<=": value <= other}[sign]


def parsed(text: str) -> bool | int | float | str | None:
    """The value of an override as Hydra understands it, however it was typed: `False` is `false`, `1e-3` is `0.001`."""
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return SPACE.sub(r"\1", text) if text[:1] in ("[", "{") else text
