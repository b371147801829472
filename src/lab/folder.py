"""What a run's folder holds, and whether one is a finished run. Nothing heavy is imported here."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lab.errors import UserError

CONFIG, FACTS, RESULTS, STAMP = "config.yaml", "data.json", "results.json", "stamp.json"
PARTS = ("trainer", "data", "net", "task", "optimizer", "scheduler", "logger")  # of a config, as they are written
SWEEP = "sweep.json"  # in a sweep's folder: what it was asked for, and the keys that its runs differ in
PREDICTIONS = "test_predictions.csv"  # by the best weights
FIGURES = "figures"
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


def check_finished(folder: Path) -> None:
    """Refuse a folder that is not that of a finished run.

    Raises:
        UserError: the folder, and what is wrong with it.
    """
    missing = [name for name in (RESULTS, CONFIG, FACTS, BEST) if not (folder / name).is_file()]
    if not folder.is_dir():
        problem = "there is no such folder"
    elif missing:
        problem = f"it has no {missing[0]}"
    elif (status := read_json(folder / RESULTS, "status")["status"]) != "finished":
        problem = f"its status is {status}"
    else:
        return
    raise UserError(f"error: {folder} is not a finished run: {problem}. lab train makes one.")


def latest(log_dir: Path) -> Path:
    """The folder of the run that began last.

    Raises:
        UserError: there is none.
    """
    stamps = [*log_dir.glob(f"*/*/{STAMP}"), *log_dir.glob(f"*/*/*/{STAMP}")]  # of single runs, and of sweeps'
    stamps = [
        path for path in stamps if not any(part[0] == "." for part in path.relative_to(log_dir).parts)
    ]  # archived
    stamps.sort(key=lambda path: path.stat().st_mtime)
    if not stamps:
        raise UserError(f"error: run=latest: there is no run in {log_dir}.")
    return stamps[-1].parent


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """What a file of a run holds.

    Raises:
        UserError: it is not there, not JSON, or without one of the keys.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"error: {path} is damaged: it can't be read ({error}).") from error
    return _with(path, content, keys)


def read_config(folder: Path) -> Any:
    """The config of a run.

    Raises:
        UserError: it is no whole one.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse
    from yaml import YAMLError

    path = folder / CONFIG
    try:
        cfg = OmegaConf.load(path)
        for line in path.read_text().splitlines():
            if "${" in line:
                parse(line)  # what is cut inside a reference is YAML still
    except (OSError, ValueError, YAMLError, GrammarParseError) as error:
        raise UserError(f"error: {path} is damaged: it can't be read ({' '.join(str(error).split())}).") from error
    return _with(path, cfg if isinstance(cfg, DictConfig) else None, PARTS)


def _with(path: Path, content: Any, keys: Iterable[str]) -> Any:
    missing = list(keys) if content is None else [key for key in keys if key not in content]
    if missing or content is None:
        raise UserError(f"error: {path} is damaged: it lacks {', '.join(missing) or 'everything'}.")
    return content


def flat(cfg: Any) -> dict[str, Any]:
    """A config's dotted keys and their values; references as they stand."""
    from omegaconf import OmegaConf

    def walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, child in value.items():
                yield from walk(f"{key}.{name}" if key else str(name), child)
        else:
            yield key, value

    return dict(walk("", OmegaConf.to_container(cfg, resolve=False)))


def write_config(folder: Path, cfg: Any) -> None:
    from omegaconf import OmegaConf

    temporary = folder / f".{CONFIG}.{os.getpid()}.tmp"
    OmegaConf.save(cfg, temporary)
    os.replace(temporary, folder / CONFIG)


def write_json(path: Path, content: Any) -> None:
    """The file is the old one or the new one, never half of either."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
