"""A finished run, loaded from its folder alone: its config, its data, and its task with the best weights."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from lab.build import build_data, build_task
from lab.callbacks.step_seed import StepSeed
from lab.data.base import Data
from lab.data.facts import Facts, stored_facts
from lab.engine.config.allow import read_config
from lab.engine.config.instantiate import InstantiationError, instantiate
from lab.engine.config_file import by_dotted_key
from lab.engine.display import say
from lab.engine.errors import UserError, fail, one_line
from lab.engine.folder import BEST, CONFIG, FACTS, check_finished
from lab.engine.runs import checkpoints
from lab.engine.training.lightning_quirks import filter_warnings
from lab.engine.training.process import set_up_process
from lab.runs import judges
from lab.runs.check import without_target, wrong_calls
from lab.tasks.base import Task


def load(folder: str | Path, root: Any = None, test_split: bool = False) -> tuple[DictConfig, Data, Task]:
    """The config, the data and the task of a finished run. The task has the best weights and is in evaluation mode.

    The number of threads and the precision of matrix products are set as the run's config says.

    Args:
        folder: the run's folder.
        root: the folder that holds the data now; None: the one in the config.
        test_split: read the data, and compare it with the data of the training. Otherwise no data is read.

    Raises:
        UserError: the run is not finished, a file is damaged, or the data does not fit the run.
    """
    filter_warnings()
    cfg, data, task = load_task(Path(folder), root)
    set_up_process(cfg)
    if test_split:
        read_test_split(data, Path(folder))
    return cfg, data, task


def load_task(folder: Path, root: Any = None) -> tuple[DictConfig, Data, Task]:
    """The same as `load`, but no setting of the process changes and no data is read."""
    cfg, data = load_data(folder, root)
    untrained = cfg.copy()
    for key in [key for key in by_dotted_key(untrained.net) if key.rpartition(".")[2] == "weights"]:
        OmegaConf.update(untrained.net, key, None)  # the checkpoint has them: nothing is downloaded
    judges.expect_weights(cfg, folder)
    try:
        task = build_task(untrained, data.facts)
    except InstantiationError as error:
        reason = one_line(error.__cause__ or error)
        raise UserError(f"error: {folder}: the net cannot be built from {CONFIG} and {FACTS}: {reason}") from error
    restore(task, folder)
    return cfg, data, task.eval()


def load_data(folder: Path, root: Any = None) -> tuple[DictConfig, Data]:
    """The config and the data of a finished run; see `load_task`."""
    check_finished(folder)
    cfg = read_config(folder)
    for problem in (*without_target(cfg), *wrong_calls(cfg, ("data", "net", "task", "optimizer", "scheduler"))):
        raise UserError(f"error: {folder / CONFIG} is damaged: {problem}.")
    if root is not None:
        if "root" not in cfg.data:
            fail([f"data.root={root}: the data of {folder} is not read from a folder; remove data.root"])
        cfg.data.root, cfg.data.tiny = str(root), False
    data = build_data(cfg)
    data.facts = read_facts(data, folder)
    return cfg, data


def read_facts(data: Data, folder: Path) -> Facts:
    """The facts of a run's data.

    Raises:
        UserError: the file is damaged, or describes other data.
    """
    facts, features = stored_facts(folder), type(data).features
    if {name: type(feature) for name, feature in facts.features.items()} != features:
        expected = ", ".join(f"{name}: {feature.__name__}" for name, feature in features.items())
        raise UserError(f"error: {folder / FACTS} is damaged: the features of {type(data).__name__} are {expected}.")
    return facts


def restore(task: LightningModule, folder: Path) -> None:
    """Load the best weights of a run into its task. With `ema` they are the averaged weights.

    Raises:
        UserError: the checkpoint is damaged or does not fit the task.
    """
    try:
        task.load_state_dict(checkpoints.read(folder / BEST)["state_dict"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        fail([f"{folder / BEST}: the checkpoint does not fit this net ({' '.join(str(error).split())[:200]})."])


def read_test_split(data: Data, folder: Path) -> None:
    """Read the data of a run, and compare it with the data of the training. Other samples cause a warning.

    Raises:
        UserError: the facts that the net was built with, such as the classes, have changed.
    """
    data.prepare_data()
    data.setup("test")
    if problems := list(changed_facts(data.facts, data.found, folder)):
        fail(problems)
    if data.found.fingerprint != data.facts.fingerprint:
        message = f"warning: the data has changed since {folder} was trained; these results are for different data"
        say(message, file=sys.stderr)


def changed_facts(before: Facts, now: Facts, folder: Path | str) -> Iterator[str]:
    """Yield a line for each feature whose facts differ from those of the training."""
    for name, feature in before.features.items():
        if names := feature.changes(now.features[name]):
            yield f"data: {name}: {', '.join(names)} differ from those that {folder} was trained with."


def evaluation_trainer(cfg: DictConfig, changes: DictConfig) -> Trainer:
    """The trainer of a run's config with `changes`, such as another accelerator. It writes no files.

    Raises:
        UserError: this machine has no such accelerator.
    """
    settings = OmegaConf.merge(cfg.trainer, changes)
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "profiler": None}
    has_bar = settings.enable_progress_bar and sys.stdout.isatty()
    try:
        trainer = instantiate(settings, **silent, enable_progress_bar=has_bar, callbacks=[StepSeed(cfg.seed)])
    except InstantiationError as error:
        fail([f"trainer: {' '.join(str(error.__cause__).split())} Choose another trainer, such as trainer=cpu."])
    return trainer
