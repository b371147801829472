"""Check a config before any data is read: its values against the signatures of the classes that it names."""

import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from lab.callbacks.resume_checkpoint import ResumeCheckpoint
from lab.data.base import Data
from lab.data.facts import stated_by
from lab.engine.config.allow import locate, refuse
from lab.engine.config.instantiate import InstantiationError, instantiate
from lab.engine.config.settings import wrong_settings
from lab.engine.config.signatures import wrong_arguments
from lab.engine.constraints import Fraction
from lab.engine.display import in_utf8
from lab.engine.errors import UserError, fail, one_line
from lab.runs.judges import wrong_judges
from lab.runs.refusals import refusals, refused_with_several_optimizers
from lab.tasks.optimizers import build_schedule, by_key, by_name

OTHER_KEY = re.compile(r"\$\{(?!\s*oc\.)")  # a reference to another key of the config, not to the environment


@dataclass
class Monitor:
    mode: Literal["min", "max"]


@dataclass
class Settings:
    """The types of those keys of conf/train.yaml whose defaults do not show them."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    seeds: PositiveInt | None
    cv: Annotated[int, Field(ge=2)] | None
    fold: NonNegativeInt | None
    monitor: Monitor
    early_stopping: PositiveInt | None
    ema: Fraction | None
    compile: bool | Literal["reduce-overhead", "max-autotune"]
    matmul_precision: Literal["highest", "high", "medium"]
    channels_last: bool | Literal["auto"]
    not_finite: Literal["stop", "skip"]
    checkpoint: ResumeCheckpoint


def check(cfg: DictConfig, folder: Path | None = None, writes: bool = True) -> None:
    """Refuse a training config that cannot run on this machine.

    Args:
        cfg: of `lab train`.
        folder: of the run; None: it will be made in `log_dir`.
        writes: whether the verb writes into it.

    Raises:
        UserError: a line for each problem.
    """
    refuse(cfg)
    if problems := list(without_target(cfg)):
        fail(problems)
    problems = [f"{group}: none is chosen; choose one with {group}=NAME" for group in ("data", "net") if not cfg[group]]
    problems += wrong_settings("train", cfg, Settings)
    problems += wrong_calls(cfg)
    if writes:
        problems += _unwritable("run" if folder else "log_dir", folder or Path(cfg.log_dir))
    problems += [
        f"{key}={cfg[key]}: expected UTF-8, because TensorBoard writes no other folder; choose another name"
        for key in ("run", "log_dir", "name") if in_utf8(str(cfg[key])) != str(cfg[key])
    ]  # fmt: skip
    problems += refusals(cfg)
    problems += wrong_judges(cfg, folder)
    if cfg.seeds is not None or (cfg.cv is not None and cfg.fold is None):
        problems.append("cv, seeds: they stand for several runs; for one run set fold and seed")
    if cfg.fold is not None and not problems and cfg.fold >= (cfg.cv or 0):
        problems.append(f"fold={cfg.fold}: {f'expected 0 to {cfg.cv - 1}' if cfg.cv else 'it needs cv, such as cv=5'}")
    if cfg.finetune and cfg.warm_start:
        problems.append("finetune, warm_start: set one of them; warm_start also loads the optimizer's state")
    if not problems:
        problems = [problem for key, build in _trials(cfg) for problem in _refused(key, build)]
    if not problems:  # last, because some loggers open a database
        problems = list(_refused("logger", lambda: instantiate(cfg.logger, save_dir=cfg.log_dir)))
    if problems:
        fail(problems)


def wrong_calls(cfg: DictConfig, groups: Collection[str] | None = None) -> Iterator[str]:
    """Yield a line for each value of a config, or of some of its groups, that does not fit a signature."""
    stated: set[str] = set()
    for key, target, node in _calls(cfg):
        if groups is not None and key.partition(".")[0] not in groups:
            continue
        try:
            function = locate(target) if isinstance(target, str) else target
        except ImportError as error:
            yield f"{key}._target_={target}: {one_line(error)}"
            continue
        if key == "data" and isinstance(function, type) and issubclass(function, Data):
            stated |= set(stated_by(function.features))
        is_filled = key.partition(".")[0] in ("net", "task")
        yield from wrong_arguments(key, function, node, stated if is_filled else ())


def _calls(cfg: DictConfig) -> Iterator[tuple[str, str | type, dict[str, Any]]]:
    """Yield the key, the `_target_` and the arguments of each object in a config.

    The data comes first, because its facts fill arguments of nets and tasks. The value of an argument that refers to
    another key is `...`, because the other key is checked.
    """

    def walk(key: str, node: Any, raw: Any) -> Iterator[tuple[str, str | type, dict[str, Any]]]:
        if isinstance(node, dict):
            plain = {name: ... if OTHER_KEY.search(str(raw[name])) else value for name, value in node.items()}
            if "_target_" in node:
                yield key, str(node["_target_"]), plain
            for name, child in node.items():
                yield from walk(f"{key}.{name}" if key else str(name), child, raw[name])
        elif isinstance(node, list):
            for i, child in enumerate(node):
                yield from walk(f"{key}[{i}]", child, raw[i])

    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in sorted(tree, key=lambda key: key != "data"):
        yield from walk(key, tree[key], raw[key])


def _unwritable(key: str, folder: Path) -> Iterator[str]:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError:
        yield f"{key}={folder}: {there} is not a writable folder"


def without_target(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for each callback, optimizer and schedule that names no class."""
    if not isinstance(cfg.callbacks, DictConfig):
        yield f"callbacks={cfg.callbacks}: expected a mapping of names to callbacks"
        return
    for name, node in cfg.callbacks.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            yield f"callbacks.{name!s}: expected an object with a _target_, the class of a callback"
    for group in ("optimizer", "scheduler"):
        found = by_key(group, cfg[group]) or {group: None}
        for key, node in found.items():
            if not isinstance(node, DictConfig) or "_target_" not in node:
                yield f"{key}: expected an object with a _target_, or a mapping of names to such objects"


def _trials(cfg: DictConfig) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield a function for each cheap object, which Lightning or torch checks when it is built."""
    yield "trainer", lambda: instantiate(cfg.trainer, logger=False, enable_checkpointing=False)
    yield "callbacks", lambda: [instantiate(callback) for callback in cfg.callbacks.values()]

    def optimizer(key: str, node: DictConfig) -> None:
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        made[key] = instantiate(node)(net.named_parameters())

    def scheduler(key: str, node: DictConfig) -> Any:
        own = made.get(key.replace("scheduler", "optimizer", 1), next(iter(made.values())))
        return build_schedule(instantiate(node), own, [""], lambda: 100)

    made: dict[str, torch.optim.Optimizer] = {}
    optimizers, schedulers = by_key("optimizer", cfg.optimizer), by_key("scheduler", cfg.scheduler)
    yield from ((key, partial(optimizer, key, node)) for key, node in optimizers.items())
    if made.keys() == optimizers.keys():  # the optimizers are built by now
        yield from ((key, partial(scheduler, key, node)) for key, node in schedulers.items())


def _refused(key: str, build: Callable[[], Any]) -> Iterator[str]:
    try:
        build()
    except UserError as error:
        yield from (line.removeprefix("error: ") for line in error.args)
    except (InstantiationError, MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        yield f"{key}: {one_line(error.__cause__ or error)}"


def check_optimizers(cfg: DictConfig, task: Any) -> None:
    """Raises UserError if the optimizers and schedules of the config are not those that the task requires."""
    names = task.parameters_of().keys()
    by_name("optimizer", task.optimizer, names)
    by_name("scheduler", task.scheduler, names)
    if len(names) > 1:
        if problems := list(refused_with_several_optimizers(cfg)):
            fail(problems)
        task.build_optimizer()
