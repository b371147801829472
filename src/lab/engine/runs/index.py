"""The runs below a folder, read from their files: settings, status and scores of each. Nothing heavy is imported."""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab.engine.errors import UserError
from lab.engine.files import read_json, read_text, write_json
from lab.engine.folder import CONFIG, RESULTS, STAMP
from lab.engine.keys import key_of
from lab.engine.lock import is_held
from lab.engine.records import Best, Moment

UNFINISHED = ("running", "interrupted", "damaged")  # a process may still be writing the files of such a run
INDEX = ".runs.json"  # a cache of the runs that were read before, by folder; it may be deleted at any time
CONDITION = re.compile("([^!=<>]+)(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
ARROWS = {"max": "↑", "min": "↓"}  # whether a larger or a smaller value of a metric is better
CONSTANTS = {"true": True, "false": False, "null": None}
KEY = re.compile(r"((?:  )*)([^:\s]+):")  # the key in a line of config.yaml, as OmegaConf writes it
CHANGE_NO_SCORE = (  # keys of a config that change no score; the data is compared by its fingerprint
    "name.", "run.", "log_dir.", "seeds.", "sweep.", "launcher.", "figures.", "logger.", "checkpoint.", "data.root.",
    "data.num_workers.", "data.worker_timeout.", "trainer.enable_progress_bar.", "trainer.log_every_n_steps.",
)  # fmt: skip
SPACE = re.compile(r"\s*([,:\[\]{}])\s*")  # optional space in a list or a mapping
FIELDS = {  # the fields of `RunInfo` by column of the table
    "run": "folder", "status": "status", "seconds": "seconds", "host": "host", "commit": "commit",
    "params": "parameters", "parameters": "parameters", "why": "error", "error": "error",
}  # fmt: skip


@dataclass
class RunInfo:
    """The information about a run that `lab runs`, reports and sweeps show."""

    folder: str  # relative to the log folder
    overrides: dict[str, str]
    status: str  # finished, failed, interrupted, pruned, running, killed, damaged
    began: Moment  # the start time
    digest: str  # of config, data and commit: runs with the same digest repeat each other
    seconds: float | None = None
    host: str = ""
    commit: str = ""
    parameters: int | None = None
    error: str = ""
    best: dict[str, Any] = field(default_factory=dict)  # metric, value, mode
    test: dict[str, float] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)  # settings that were not overridden; see `add_defaults`

    def value(self, name: str) -> Any:
        """A setting, `best` or the monitored metric, a test metric, or a column of the table; None if unknown."""
        settings = self.defaults | self.overrides
        if name in settings:
            return parsed(settings[name])
        if name in ("best", self.best.get("metric")):
            return self.best.get("value")
        if name == "began":
            return datetime.fromtimestamp(self.began).isoformat(" ", "minutes")
        return self.test[name] if name in self.test else getattr(self, FIELDS.get(name, ""), None)


RUN_INFO = TypeAdapter(RunInfo)


def read_runs(logs: Path) -> list[RunInfo]:
    """All runs, the oldest first. Only runs that changed since the last call are read from their files."""
    index: dict[str, Any] = {}
    if (logs / INDEX).exists():
        with contextlib.suppress(UserError):  # a damaged index is like a deleted one
            index = read_json(logs / INDEX)
    fresh: dict[str, Any] = {}
    runs = []
    for key, changed in _folders(logs, "", index):
        run: RunInfo | None = None
        with contextlib.suppress(KeyError, TypeError, ValueError):  # missing, or of another version of lab
            if index[key]["changed"] == changed:
                known = RUN_INFO.validate_python(index[key]["run"])
                known.best = Best.model_validate(known.best).model_dump() if known.best else {}
                run = known
        run = run or read_run(logs / key, key)
        fresh[key] = {"changed": changed, "run": asdict(run)}
        if run.status in UNFINISHED:
            held = is_held(logs / key)  # None: unknown, and the status in the files is used
            killed = held is False and run.status == "running"
            run.status = "running" if held else "killed" if killed else run.status
        runs.append(run)
    if fresh != index:
        with contextlib.suppress(OSError):  # the logs belong to another user
            write_json(logs / INDEX, fresh)
    return sorted(runs, key=lambda run: run.began)


def _folders(logs: Path, key: str, index: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the folders of runs at or below `key`, and the time when their results changed.

    A run is never inside another run, so nothing below a run is read.
    """
    results = f"{logs}/{key}/{RESULTS}"
    if key in index:  # known as a run: one system call is enough
        with contextlib.suppress(FileNotFoundError):
            yield key, os.lstat(results).st_mtime_ns
            return
    try:
        entries = list(os.scandir(f"{logs}/{key}"))
    except OSError:  # the folder belongs to another user
        return
    if any(entry.name == CONFIG for entry in entries):
        yield key, os.lstat(results).st_mtime_ns if os.path.lexists(results) else 0
        return
    visible = (e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    below = [f"{key}/{name}" if key else name for name in visible]
    for path in below:
        yield from _folders(logs, path, index)


def read_run(folder: Path, key: str = "") -> RunInfo:
    """The information about one run. If a file is damaged, the status is `damaged` and `error` names the file.

    Args:
        folder: the run's folder.
        key: the name under which the run is listed.
    """
    stamp, damage = _read_or_damage(folder / STAMP)
    results, more = _read_or_damage(folder / RESULTS)
    words = [word for word in stamp.get("overrides", []) if word[:1] != "~"]
    changes = {key: _text(value) for resume in stamp.get("resumed", []) for key, value in resume["changes"].items()}
    started = {key_of(word): word.partition("=")[2] for word in words}
    began = stamp.get("began")
    error = next(iter(str(results.get("error", "")).splitlines()), "").rpartition("error: ")[2]
    return RunInfo(
        folder=key,
        overrides={key: value for key, value in (started | changes).items() if key not in ("run", "log_dir")},
        status="damaged" if damage or more else results.get("status", "interrupted"),
        began=began if began is not None else min(max((folder / CONFIG).lstat().st_mtime, 0.0), 2.0**36),
        digest=_digest(folder, stamp),
        seconds=results["seconds"]["total"] if results else None,
        host=stamp.get("host", ""),
        commit=(stamp.get("git") or {}).get("commit", "")[:7],
        parameters=results.get("parameters"),
        error=damage or more or error,
        best=results.get("best") or {},
        test={name: value for name, value in results.get("test", {}).items() if name.count("/") < 2},
    )


def _digest(folder: Path, stamp: dict[str, Any]) -> str:
    """A digest of everything that determines the scores: the config (with its seed), the data and the commit."""
    digest = hashlib.sha256(f"{(stamp.get('git') or {}).get('commit')} {stamp.get('data')}".encode())
    try:
        for key, line in _config_lines(folder):
            if not f"{key}.".startswith(CHANGE_NO_SCORE):
                digest.update(f"{line}\n".encode(errors="surrogatepass"))
    except UserError:
        return str(folder)
    return digest.hexdigest()


def _config_lines(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each line of a run's config with the dotted key that it belongs to; parsing YAML would be much slower."""
    keys: list[str] = []
    for line in read_text(folder / CONFIG).split("\n"):
        if key := KEY.match(line):
            keys[len(key[1]) // 2 :] = [key[2]]
        yield ".".join(keys), line


def add_defaults(runs: Iterable[RunInfo], logs: Path, keys: Collection[str]) -> None:
    """Read the settings of these keys that a run did not override: its choice of a group, or a value of its config."""
    for run in runs:
        wanted = {key for key in keys if key not in run.overrides}
        if not wanted:
            continue
        choices = _read_or_damage(logs / run.folder / STAMP)[0].get("choices", {})
        run.defaults = {key: str(choices[key]) for key in wanted if key in choices}
        with contextlib.suppress(UserError):
            for key, line in _config_lines(logs / run.folder):
                text = line.partition(": ")[2]
                if key in wanted and key not in run.defaults and text:
                    run.defaults[key] = text


def _text(value: Any) -> str:
    """A value as in an override."""
    return value if isinstance(value, str) else json.dumps(value)


def _read_or_damage(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a JSON file, or {} and what is wrong with it; a missing file is ({}, "")."""
    if not os.path.lexists(path):
        return {}, ""
    try:
        return read_json(path), ""
    except UserError as error:
        return {}, str(error).removeprefix("error: ")


def select(runs: Sequence[RunInfo], patterns: Sequence[str], conditions: Sequence[str]) -> list[RunInfo]:
    """The runs whose folder matches one of the patterns, and that meet all conditions, such as `net=mlp` or `best>0.9`.

    Raises:
        UserError: a condition is malformed.
    """
    stems = [pattern.rstrip("/") for pattern in patterns]
    selected = [
        run for run in runs
        if not stems or any(fnmatch.fnmatch(run.folder, s) or run.folder.startswith(f"{s}/") for s in stems)
    ]  # fmt: skip
    for condition in conditions:
        name, sign, text = parts_of(condition)
        if name == "best":
            name = the_best(selected, f"where {condition}")
        selected = [run for run in selected if _holds(run.value(name), sign, text)]
    return selected


def parts_of(condition: str) -> tuple[str, str, str]:
    """The key, the sign and the value of a condition.

    Raises:
        UserError: the condition is malformed.
    """
    parts = CONDITION.fullmatch(condition)
    if parts is None:
        raise UserError(f"error: where {condition}: expected KEY=VALUE, or one of !=, >, <, >=, <= instead of =")
    return parts[1], parts[2], parts[3]


def monitored(runs: Sequence[RunInfo]) -> dict[str, str]:
    """The monitored metrics of these runs, each with its arrow; both arrows if runs disagree."""
    pairs = dict.fromkeys((run.best["metric"], run.best.get("mode", "min")) for run in runs if run.best)
    names = dict.fromkeys(name for name, _ in pairs)
    return {name: "".join(ARROWS.get(mode, "") for other, mode in pairs if other == name) for name in names}


def the_best(runs: Sequence[RunInfo], context: str) -> str:
    """The metric that `best` stands for.

    Args:
        runs: the selected runs.
        context: the user's words, at the beginning of the error message.

    Raises:
        UserError: these runs monitor several metrics.
    """
    arrows = monitored(runs)
    if len(arrows) > 1 or any(len(arrow) > 1 for arrow in arrows.values()):
        several = ", ".join(f"{name} {arrow}" for name, arrow in arrows.items())
        raise UserError(
            f"error: {context}: these runs monitor several metrics ({several}); name one of them, or select fewer runs."
        )
    return next(iter(arrows), "best")


def _holds(value: Any, sign: str, text: str) -> bool:
    """Return whether a condition such as `value >= text` holds. Texts are compared alphabetically."""
    other = parsed(text)
    if sign in ("=", "!="):
        return (value == other or str(value) == text) == (sign == "=")
    if isinstance(value, str):
        other = text
    elif value is None or not isinstance(other, int | float):
        return False
    return {">": value > other, "<": value < other, ">=": value >= other, "<=": value <= other}[sign]


def parsed(text: str) -> bool | int | float | str | None:
    """The value of an override as Hydra parses it: `False` equals `false`, and `1e-3` equals `0.001`."""
    text = text.strip()
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return SPACE.sub(r"\1", text) if text[:1] in ("[", "{") else text
