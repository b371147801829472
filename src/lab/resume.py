"""Where a run lives, whether it goes on from what is there, and what it starts from."""

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf

from lab import checkpoints
from lab.allow import read_config
from lab.config import fail, overrides
from lab.data.base import Data
from lab.display import command, say
from lab.errors import UserError
from lab.folder import BEST, FACTS, LAST, PREVIOUS, RESULTS, STAMP, flat, read_json, write_config, write_json
from lab.keys import key_of
from lab.started import slurm_job

MAY_CHANGE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.devices",
    "trainer.strategy", "trainer.num_nodes", "trainer.enable_progress_bar", "data.num_workers", "data.worker_timeout",
    "data.root", "early_stopping", "checkpoint.every_n_steps", "checkpoint.every_n_minutes",
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

    Raises:
        UserError: something else was changed.
    """
    saved, began = read_config(folder), read_json(folder / STAMP, "overrides")["overrides"]
    new = [override for override in overrides() if override not in began and not override.startswith("run=")]
    keys = [key_of(override) for override in new]
    was, now = flat(saved), flat(cfg)
    changes = {
        key: now.get(key)
        for key in was | now
        if was.get(key) != now.get(key) and any(key == k or key.startswith(f"{k}.") for k in keys)
    }
    if wrong := [key for key in changes if key not in MAY_CHANGE]:
        advice = f"{command(f'finetune={folder}')} starts a new run from its weights."
        hint = f"A resumed run may change only {', '.join(MAY_CHANGE)}. {advice}"
        fail([f"{key}={changes[key]}: {folder} was started with {key}={was.get(key)}. {hint}" for key in wrong])
    for key, value in changes.items():
        OmegaConf.update(saved, key, value)
    return saved, changes


def record(cfg: DictConfig, changes: dict[str, Any], folder: Path) -> None:
    """Write down that the run goes on, with which config, and what was changed."""
    stamp = read_json(folder / STAMP)
    stamp.setdefault("resumed", []).append({"time": datetime.now().isoformat(" ", "seconds"), "changes": changes})
    write_json(folder / STAMP, stamp)
    write_config(folder, cfg)


def finished(folder: Path, changes: dict[str, Any]) -> float | None:
    """The best value of a run that has nothing left to do."""
    results = read_json(folder / RESULTS, "status") if (folder / RESULTS).exists() else {}
    longer = any(key.startswith(("trainer.max_", "early_stopping")) for key in changes)
    if results.get("status") != "finished" or longer:
        return None
    return results["best"]["value"]


def check_data(data: Data, folder: Path) -> None:
    if data.found.fingerprint != read_json(folder / FACTS, "fingerprint")["fingerprint"]:
        new = command(f"finetune={folder}")
        raise UserError(f"error: data: it has changed since {folder} was started. {new} starts a new run with it.")


def has_begun(folder: Path | None) -> bool:
    """Whether there is a checkpoint to go on from, whole or not."""
    return folder is not None and any((folder / name).exists() for name in (LAST, PREVIOUS))


def position(folder: Path, task: LightningModule) -> tuple[Path | None, int]:
    """The checkpoint to go on from, and the step of the logs that comes next.

    Raises:
        UserError: none is whole, or the task's.
    """
    path = checkpoints.newest(folder)
    if path is None:
        return None, 0
    content = checkpoints.read(path)
    checkpoints.check_content(content, path)
    checkpoints.check_weights(content["state_dict"], task, path)
    return path, content["last"]["batches_that_stepped"]


def inherited(cfg: DictConfig, folder: Path | None) -> dict[str, Any]:
    """The facts of the run whose weights are gone on from, or started from."""
    source = folder if folder and has_begun(folder) else Path(cfg.finetune or cfg.warm_start or "")
    path = (source if source.is_dir() else source.parent) / FACTS
    return read_json(path) if path.is_file() and source != Path() else {}


def start_from(cfg: DictConfig, task: LightningModule) -> None:
    """Give a new run's task the weights of another's (`finetune`), or its optimizer's state too (`warm_start`).

    For fine-tuning, weights whose shape differs, such as those of a head for other classes, stay as they are.

    Raises:
        UserError: nothing in the checkpoint fits.
    """
    key = "finetune" if cfg.finetune else "warm_start"
    source = cfg[key]
    if source is None:
        return
    if not str(source).startswith(("http://", "https://")) and not Path(source).exists():
        fail([f"{key}={source}: there is no such run or checkpoint."])
    path = Path(source) / BEST if Path(source).is_dir() else source
    checkpoint = checkpoints.read(path, sealed=False)
    weights, own = checkpoint.get("state_dict", {}), task.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    others = sorted(set(own) - set(fitting))
    if not fitting or (others and key == "warm_start"):
        fail([f"{key}={source}: the checkpoint does not fit this net: {', '.join(others[:3])} differ."])
    task.load_state_dict(fitting, strict=False)
    new = f"; new: {', '.join(others)}" if others else ""
    say(f"{len(fitting)} of {len(own)} tensors are loaded from {path}{new}")
    if key == "warm_start":
        task.optimizer_state = _optimizer_state(checkpoint, task, str(source))


def _optimizer_state(checkpoint: dict[str, Any], task: Any, source: str) -> Any:
    """The moments of an optimizer of the same kind; by its settings' names, for a checkpoint holds no class."""
    hint = f"{command(f'finetune={source}')} needs only the weights."
    if not (states := checkpoint.get("optimizer_states")):
        fail([f"warm_start={source}: it has no optimizer state. {hint}"])
    own = task.optimizer(task.named_parameters()).state_dict()
    if own["param_groups"][0].keys() - states[0]["param_groups"][0].keys():  # a schedule adds some
        fail([f"warm_start={source}: it was trained with another optimizer. {hint}"])
    return states[0]["state"]
