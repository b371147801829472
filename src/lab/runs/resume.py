"""Where a run lives, whether it is resumed, and what it starts from."""

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
from lab.engine.display import command
from lab.engine.errors import UserError, fail
from lab.engine.folder import FACTS, LAST, PREVIOUS, RESULTS, STAMP, flat, read_json, write_config, write_json
from lab.engine.keys import key_of
from lab.engine.launch.environment import slurm_job
from lab.engine.runs import checkpoints
from lab.engine.runs.ending import ENDS, check_limits, ends, why_ended

MAY_CHANGE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "trainer.strategy", "trainer.num_nodes", "trainer.enable_progress_bar", "data.num_workers", "data.worker_timeout",
    "early_stopping", "checkpoint.every_n_steps", "checkpoint.every_n_minutes", *STORED,
)  # fmt: skip


def place(cfg: DictConfig) -> Path | None:
    """The folder that a run must have: the one it is given; that of what SLURM or torchrun starts again."""
    if cfg.run is not None:
        return Path(cfg.run)
    job, rendezvous = slurm_job(), os.environ.get("TORCHELASTIC_RUN_ID", "none")  # torchrun's word for none
    if job is None and rendezvous == "none":
        return None
    text = json.dumps(OmegaConf.to_container(cfg, resolve=False), sort_keys=True)
    name = f"slurm-{job}" if job else f"torchrun-{rendezvous}"
    return Path(cfg.log_dir) / cfg.name / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def merge(cfg: DictConfig, folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """The run's own config with what may be changed and was, and what that is, by key.

    The values are compared with those that the run's own words give today: a config of an older lab differs from both.

    Raises:
        UserError: something else was changed.
    """
    saved, before = read_config(folder), compose_inside_job("train", run_overrides(folder))
    cfg = cfg.copy()
    for each in (cfg, before):
        each.run = None
        make_paths_absolute(each)
    was, now = flat(before), flat(cfg)
    named = {key_of(text).rpartition("@")[2] for text in overrides()}  # a nested group, net@net.net, is at net.net
    changes = {
        key: now.get(key)
        for key in was | now
        if was.get(key) != now.get(key) and any(key == k or key.startswith(f"{k}.") for k in named)
    }
    if wrong := [key for key in changes if key not in MAY_CHANGE]:
        advice = f"{command(f'finetune={folder}')} starts a new run from its weights."
        hint = f"These keys may change: {', '.join(MAY_CHANGE)}. {advice}"
        fail([f"{key} cannot change when {folder} is resumed; it was {was.get(key)}. {hint}" for key in wrong])
    for key, value in changes.items():
        OmegaConf.update(saved, key, value, force_add=True)
    return saved, changes


def record(cfg: DictConfig, changes: dict[str, Any], folder: Path) -> None:
    """Record that the run is resumed, with which config, and what was changed."""
    if (folder / RESULTS).exists():  # a run that is killed from here on is not finished
        write_json(folder / RESULTS, read_json(folder / RESULTS) | {"status": "running"})
    stamp = read_json(folder / STAMP)
    stamp["resumed"].append({"time": datetime.now().isoformat(" ", "seconds"), "changes": changes})
    write_json(folder / STAMP, stamp)
    write_config(folder, cfg)


def finished(folder: Path) -> float | None:
    """Return the best value of a finished run."""
    results: dict[str, Any] = read_json(folder / RESULTS) if (folder / RESULTS).exists() else {"status": "running"}
    return results["best"]["value"] if results["status"] == "finished" else None


def nothing_left(cfg: DictConfig, changes: dict[str, Any], folder: Path) -> str | None:
    """Return why a finished run does not train further, if so; nothing is written.

    Raises:
        UserError: a limit is smaller than what has been trained, or no checkpoint is left.
    """
    if not any(key.startswith(ENDS) for key in changes):
        return "a larger trainer.max_epochs trains further"
    path = checkpoints.newest(folder)
    if path is None:
        fail([f"{folder} has no {LAST} to resume from. finetune={folder} starts a new run from its best weights."])
    content = checkpoints.read(path)
    checkpoints.check_content(content, path)
    check_limits(ends(cfg), content, folder)
    return why_ended(ends(cfg), content)


def check_data(data: Data, folder: Path) -> None:
    if data.found.fingerprint != read_json(folder / FACTS, "fingerprint")["fingerprint"]:
        new = command(f"finetune={folder}")
        raise UserError(f"error: data: it has changed since {folder} was started. {new} starts a new run with it.")


def has_begun(folder: Path | None) -> bool:
    """Return whether there is a checkpoint to resume from, whole or not."""
    return folder is not None and any((folder / name).exists() for name in (LAST, PREVIOUS))


def position(cfg: DictConfig, folder: Path, task: LightningModule) -> tuple[Path | None, int]:
    """Return the checkpoint to resume from, and the step of the logs that comes next.

    Raises:
        UserError: none is whole or fits the task, or it has trained for longer than the config says.
    """
    path = checkpoints.newest(folder)
    if path is None:
        return None, 0
    content = checkpoints.read(path)
    checkpoints.check_content(content, path)
    checkpoints.check_weights(content["state_dict"], task, path)
    checkpoints.check_optimizer(content, task, path)
    if cfg.ema is not None and not {"current_model_state", "averaging_state"} <= content.keys():
        fail([f"{path} is no checkpoint that a run with ema={cfg.ema} resumes from: it has no averages."])
    check_limits(ends(cfg), content, folder)
    return path, content["last"]["batches_that_stepped"]


def inherited(cfg: DictConfig, folder: Path | None) -> Facts | None:
    """The facts of the run that this run resumes, or whose weights it starts from.

    Raises:
        UserError: the file is damaged.
    """
    source = folder if folder and has_begun(folder) else Path(cfg.finetune or cfg.warm_start or "")
    source = source if source.is_dir() else source.parent
    return stored_facts(source) if source != Path() and (source / FACTS).is_file() else None
