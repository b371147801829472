"""Resuming a run: its folder, the settings that may change, the checkpoint, and the checks that they fit."""

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf

from lab.data.base import Data
from lab.data.facts import Facts, stored_facts
from lab.engine.config.allow import read_config
from lab.engine.config.compose import compose_inside_job, overrides
from lab.engine.config.run_overrides import run_overrides
from lab.engine.config.user_paths import STORED, make_paths_absolute
from lab.engine.config_file import by_dotted_key, write_config
from lab.engine.display import command, say
from lab.engine.errors import UserError, fail
from lab.engine.files import read_json, write_json
from lab.engine.folder import CONFIG, FACTS, LAST, PREVIOUS, RESULTS, STAMP
from lab.engine.keys import key_of
from lab.engine.launch.environment import slurm_job
from lab.engine.runs import checkpoints
from lab.engine.runs.ending import ENDS, check_limits, ends, why_ended
from lab.runs.refusals import check_resumable

MAY_CHANGE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "trainer.strategy", "trainer.num_nodes", "trainer.enable_progress_bar", "data.num_workers", "data.worker_timeout",
    "early_stopping", "checkpoint.every_n_steps", "checkpoint.every_n_minutes", *STORED,
)  # fmt: skip


def find_run(cfg: DictConfig) -> tuple[DictConfig, Path | None, dict[str, Any] | None, float | None]:
    """The run that a config describes.

    Returns:
        The config, which is the stored one with the changes if the folder already holds a run; the folder, None for a
        new one; the changes by key, None for a new run; the best value of a finished run that is not trained further.

    Raises:
        UserError: a setting changed that is fixed, or the run cannot be resumed.
    """
    folder = folder_of(cfg)
    if folder is None or not (folder / CONFIG).exists():
        return cfg, folder, None, None
    merged, changes = merge_config(cfg, folder)
    best, why_complete = finished(merged, changes, folder)
    if best is not None:
        say(f"{folder} is finished: {why_complete}.")
    elif has_checkpoint(folder):
        check_resumable(merged)
    return merged, folder, changes, best


def folder_of(cfg: DictConfig) -> Path | None:
    """The folder that a config determines: `run`, or a name made of the SLURM or torchrun job; None: a new folder.

    A job that SLURM or torchrun restarts finds its folder again, because the same job and config give the same name.
    """
    if cfg.run is not None:
        return Path(cfg.run)
    job, rendezvous = slurm_job(), os.environ.get("TORCHELASTIC_RUN_ID", "none")  # torchrun's default is "none"
    if job is None and rendezvous == "none":
        return None
    text = json.dumps(OmegaConf.to_container(cfg, resolve=False), sort_keys=True)
    name = f"slurm-{job}" if job else f"torchrun-{rendezvous}"
    return Path(cfg.log_dir) / cfg.name / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def has_checkpoint(folder: Path | None) -> bool:
    """Return whether a folder has a checkpoint to resume from, intact or damaged."""
    return folder is not None and any((folder / name).exists() for name in (LAST, PREVIOUS))


def merge_config(cfg: DictConfig, folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """Put the changed settings into the config of a run.

    A setting has changed if it was given on the command line and differs from the value that the overrides in the
    run's stamp give today. The stored config is not compared: an older lab may have written it with other defaults.

    Returns:
        The merged config, and the changes by key.

    Raises:
        UserError: a setting changed that is fixed when a run is resumed.
    """
    saved = read_config(folder)
    words = run_overrides(folder, saved)
    before = compose_inside_job("train", words)
    cfg = cfg.copy()
    for each in (cfg, before):
        each.run = None
        make_paths_absolute(each)
    old, new = by_dotted_key(before), by_dotted_key(cfg)
    given = {key_of(text).rpartition("@")[2] for text in overrides()}  # net@net.net sets net.net
    changes = {
        key: new.get(key)
        for key in old | new
        if old.get(key) != new.get(key) and any(key == k or key.startswith(f"{k}.") for k in given)
    }
    if wrong := [key for key in changes if key not in MAY_CHANGE]:
        advice = f"{command(f'finetune={folder}')} starts a new run from its weights."
        hint = f"These keys may change: {', '.join(MAY_CHANGE)}. {advice}"
        problems = [f"{key} cannot change when {folder} is resumed; it was {old.get(key)}." for key in wrong]
        fail([*problems[:-1], f"{problems[-1]} {hint}"])
    for key, value in changes.items():
        OmegaConf.update(saved, key, value, force_add=True)
    return saved, changes


def best_value(folder: Path) -> float | None:
    """The best value of the monitored metric of a finished run; None if the run is not finished."""
    results: dict[str, Any] = read_json(folder / RESULTS) if (folder / RESULTS).exists() else {"status": "running"}
    return results["best"]["value"] if results["status"] == "finished" else None


def finished(cfg: DictConfig, changes: dict[str, Any], folder: Path) -> tuple[float | None, str | None]:
    """Whether a run is finished and is not trained further.

    Returns:
        Its best value, and the reason with what trains it further; (None, None): it is trained.

    Raises:
        UserError: a limit is smaller than what the run has trained, or no checkpoint is left.
    """
    best = best_value(folder)
    if best is None:
        return None, None
    if not any(key.startswith(ENDS) for key in changes):
        return best, "a larger trainer.max_epochs trains further"
    path = checkpoints.newest(folder)
    if path is None:
        fail([f"{folder} has no {LAST} to resume from. finetune={folder} starts a new run from its best weights."])
    content = checkpoints.read(path)
    checkpoints.check_content(content, path)
    check_limits(ends(cfg), content, folder)
    reason = why_ended(ends(cfg), content)
    return (best, reason) if reason else (None, None)


def inherited_facts(cfg: DictConfig, folder: Path | None) -> Facts | None:
    """The facts of the run that is resumed, or whose weights (`finetune`, `warm_start`) the run starts from.

    Raises:
        UserError: the file is damaged.
    """
    source = folder if folder and has_checkpoint(folder) else Path(cfg.finetune or cfg.warm_start or "")
    source = source if source.is_dir() else source.parent
    return stored_facts(source) if source != Path() and (source / FACTS).is_file() else None


def check_same_data(data: Data, folder: Path) -> None:
    """Raises UserError if the data has changed since the run was started."""
    if data.found.fingerprint != read_json(folder / FACTS, "fingerprint")["fingerprint"]:
        new = command(f"finetune={folder}")
        raise UserError(f"error: the data has changed since {folder} was started. {new} starts a new run with it.")


def find_checkpoint(cfg: DictConfig, folder: Path, task: LightningModule) -> tuple[Path | None, int]:
    """The checkpoint to resume from, and the next step of the logs; (None, 0) if there is no checkpoint.

    Raises:
        UserError: every checkpoint is damaged, the newest does not fit the task, or it has passed a limit.
    """
    path = checkpoints.newest(folder)
    if path is None:
        return None, 0
    content = checkpoints.read(path)
    checkpoints.check_content(content, path)
    checkpoints.check_weights(content["state_dict"], task, path)
    checkpoints.check_optimizer(content, task, path)
    if cfg.ema is not None and not {"current_model_state", "averaging_state"} <= content.keys():
        fail([f"{path}: a run with ema={cfg.ema} cannot resume from it: it has no averaged weights"])
    check_limits(ends(cfg), content, folder)
    return path, content["last"]["batches_that_stepped"]


def record_resume(cfg: DictConfig, changes: dict[str, Any], folder: Path) -> None:
    """Write the time and the changes of a resume into the stamp, and the config into the folder."""
    if (folder / RESULTS).exists():  # if the run is killed from here on, it is not finished
        write_json(folder / RESULTS, read_json(folder / RESULTS) | {"status": "running"})
    stamp = read_json(folder / STAMP)
    stamp["resumed"].append({"time": datetime.now().isoformat(" ", "seconds"), "changes": changes})
    write_json(folder / STAMP, stamp)
    write_config(folder, cfg)
