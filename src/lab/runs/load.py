"""A run is a folder. Make one, build what its config describes, come back to it later."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from lightning import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from lab.build import build_data, build_task
from lab.callbacks.step_seed import StepSeed
from lab.data.base import Data
from lab.data.facts import Facts, stored_facts
from lab.engine.config.allow import instantiate, read_config
from lab.engine.display import say
from lab.engine.errors import UserError, fail, one_line
from lab.engine.folder import BEST, CONFIG, FACTS, check_finished, flat
from lab.engine.runs import checkpoints
from lab.runs import judges
from lab.runs.check import without_target, wrong_calls
from lab.tasks.base import Task


def load(folder: str | Path, root: Any = None) -> tuple[DictConfig, Data, Task]:
    """Config, data and trained task of a finished run; the data is not read before its `setup`.

    Args:
        folder: the run's.
        root: where its data is now, in place of where it was.

    Raises:
        UserError: the folder is not that of a finished run, or its data has no root.
    """
    folder = Path(folder)
    cfg, data = load_data(folder, root)
    own = cfg.copy()
    for key in [key for key in flat(own.net) if key.rpartition(".")[2] == "weights"]:  # they are in the checkpoint
        OmegaConf.update(own.net, key, None)
    judges.expect(cfg, folder)
    try:
        task = build_task(own, data.facts)
    except InstantiationException as error:
        raise UserError(
            f"error: {folder}: its net can't be built from {CONFIG} and {FACTS}: {one_line(error.__cause__ or error)}"
        ) from error
    restore(task, folder)
    return cfg, data, task.eval()


def load_data(folder: Path, root: Any = None) -> tuple[DictConfig, Data]:
    """Config and data of a finished run, as `load` gives them."""
    check_finished(folder)
    cfg = read_config(folder)
    for problem in (*without_target(cfg), *wrong_calls(cfg, ("data", "net", "task", "optimizer", "scheduler"))):
        raise UserError(f"error: {folder / CONFIG} is damaged: {problem}.")
    if root is not None:
        if "root" not in cfg.data:
            fail([f"data.root={root}: the data of {folder} is in no folder; leave it out."])
        cfg.data.root, cfg.data.tiny = str(root), False
    data = build_data(cfg)
    data.facts = read_facts(data, folder)
    return cfg, data


def read_facts(data: Data, folder: Path) -> Facts:
    """The facts of a run's data.

    Raises:
        UserError: its file is damaged, or describes other data.
    """
    found, features = stored_facts(folder), type(data).features
    if {name: type(feature) for name, feature in found.features.items()} != features:
        expected = ", ".join(f"{name}: {kind.__name__}" for name, kind in features.items())
        raise UserError(f"error: {folder / FACTS} is damaged: the features of {type(data).__name__} are {expected}.")
    return found


def restore(task: LightningModule, folder: Path) -> None:
    """Give a task the best weights of a run; the averaged ones, where it averaged."""
    try:
        task.load_state_dict(checkpoints.read(folder / BEST)["state_dict"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        fail([f"{folder / BEST}: the checkpoint does not fit this net ({' '.join(str(error).split())[:200]})."])


def evaluation_trainer(cfg: DictConfig, accelerator: DictConfig) -> Trainer:
    """A trainer as the run's own that writes nothing, on the `accelerator` asked for, if any."""
    try:
        silent = {"logger": False, "enable_checkpointing": False, "profiler": None}
        trainer = instantiate(OmegaConf.merge(cfg.trainer, accelerator), **silent, callbacks=[StepSeed(cfg.seed)])
    except InstantiationException as error:
        fail([f"trainer: {' '.join(str(error.__cause__).split())} Choose another: trainer=cpu."])
    return trainer


def read(data: Data, folder: str) -> None:
    """Read the data of the run in `folder`, and compare it with what the run was trained on.

    Raises:
        UserError: a fact that the net was built with is another, such as the classes.
    """
    data.prepare_data()
    data.setup("test")
    if problems := list(changes(data.facts, data.found, folder)):
        fail(problems)
    if data.found.fingerprint != data.facts.fingerprint:
        say(
            f"warning: the data has changed since {folder} was trained; these results are for different data",
            file=sys.stderr,
        )


def changes(before: Facts, now: Facts, folder: str) -> Iterator[str]:
    """Yield a line for each feature whose facts are no longer those of the run in `folder`."""
    for name, feature in before.features.items():
        if different := feature.changes(now.features[name]):
            yield f"data: {name}: {', '.join(different)} differ from those that {folder} was trained with."
