"""Build the optimizer and the schedule of a task from the functions in its config: one of each, or one per name."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import torch
from lightning import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError, fail, unknown
from lab.optim import CombinedOptimizer

T = TypeVar("T")


NamedParameters = Iterable[tuple[str, Parameter]]


class NamedOptimizers(CombinedOptimizer):
    """Several optimizers of a task combined into one, such as the two of a GAN.

    Their names become the names of the parameter groups, and of the learning rate curves.

    Args:
        optimizers: the optimizers by name.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.optimizers = optimizers
        self.is_connected = False  # each loss is known to depend on the parameters of its optimizer
        for name, part in optimizers.items():
            for number, group in enumerate(part.param_groups, 1):
                group["name"] = name if len(part.param_groups) == 1 else f"{name}/{group.get('name', f'pg{number}')}"
        groups = [group for part in optimizers.values() for group in part.param_groups]
        if not all("param_names" in group for group in groups):
            for group in groups:  # torch takes names of all parameters or of none
                group.pop("param_names", None)
        super().__init__(list(optimizers.values()), {})

    def backward(self, losses: Mapping[str, Tensor], scale: Any) -> None:
        """Add the gradient of each loss times `scale` to the gradients of its optimizer's parameters only.

        Raises:
            UserError: an optimizer has no loss, or the first loss depends on no parameter of its optimizer.
        """
        if missing := [name for name in self.optimizers if name not in losses]:
            fail(
                [f"step: Step.parts has no loss named {name}, which the optimizer {name} minimises" for name in missing]
            )
        *_, last = self.optimizers
        for name, part in self.optimizers.items():
            parameters = [p for group in part.param_groups for p in group["params"]]
            if losses[name].requires_grad or self.is_connected:
                torch.autograd.backward(losses[name] * scale, inputs=parameters, retain_graph=name != last)
            if not self.is_connected and all(p.grad is None for p in parameters):
                fail([f"step: the loss {name} depends on no parameter of the optimizer {name}; look for a detach()"])
        self.is_connected = True


class NamedSchedules(LRScheduler):
    """The schedules of several optimizers combined into one.

    Args:
        optimizer: the combined optimizer.
        schedules: the schedule of each optimizer, by name.
    """

    def __init__(self, optimizer: NamedOptimizers, schedules: Mapping[str, LRScheduler]) -> None:
        if wrong := [name for name, part in schedules.items() if isinstance(part, ReduceLROnPlateau)]:
            fail(
                [
                    f"scheduler.{name}: ReduceLROnPlateau needs a metric in each step; use another schedule"
                    for name in wrong
                ]
            )
        self.optimizer = optimizer  # super().__init__ would start a further schedule
        self.schedules = schedules

    def step(self, epoch: int | None = None) -> None:
        for part in self.schedules.values():
            part.step()

    def get_last_lr(self) -> list[Any]:
        return [lr for part in self.schedules.values() for lr in part.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        return {"schedules": {name: part.state_dict() for name, part in self.schedules.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.schedules.items():
            part.load_state_dict(state_dict["schedules"][name])


def build_optimizer(given: Any, parameters: Mapping[str, NamedParameters], module: nn.Module) -> Optimizer:
    """Return one optimizer for the parameters of a module.

    Args:
        given: a function of (name, parameter) pairs that returns an optimizer; or one for each name.
        parameters: the pairs of each optimizer, by the name of the optimizer.
        module: the module with these parameters.

    Raises:
        UserError: the names differ, or a trained parameter belongs to no optimizer or to several.
    """
    pairs = {key: [(name, p) for name, p in named if p.requires_grad] for key, named in parameters.items()}
    count = Counter(id(p) for named in pairs.values() for _, p in named)
    if wrong := [name for name, p in module.named_parameters() if count[id(p)] != p.requires_grad]:
        some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        fail(
            [
                f"{type(module).__name__}.parameters_of: expected each trained parameter once, but {some}"
                f" {'are' if len(wrong) > 1 else 'is'} given to no optimizer or to several; freeze what is not trained"
            ]
        )
    chosen = by_name("optimizer", given, pairs)
    optimizers: dict[str, Optimizer] = {key: chosen[key](named) for key, named in pairs.items()}
    return NamedOptimizers(optimizers) if len(optimizers) > 1 else next(iter(optimizers.values()))


def build_schedule(
    given: Any, optimizer: Optimizer, names: Collection[str], total_steps: Callable[[], int]
) -> LRScheduler:
    """Return one schedule for all parameters.

    Args:
        given: a function of the optimizer that returns a schedule; or one for each name.
        optimizer: the result of `build_optimizer`.
        names: the names of the optimizers of the task.
        total_steps: a function that returns the length of the run, for schedules with this argument.

    Raises:
        UserError: the names differ.
    """

    def build(factory: Callable[..., LRScheduler], part: Optimizer) -> LRScheduler:
        is_taken = "total_steps" in inspect.signature(factory).parameters
        return factory(part, **({"total_steps": total_steps()} if is_taken else {}))

    chosen = by_name("scheduler", given, names)
    if not isinstance(optimizer, NamedOptimizers):
        return build(next(iter(chosen.values())), optimizer)
    return NamedSchedules(optimizer, {name: build(chosen[name], each) for name, each in optimizer.optimizers.items()})


def num_steps(trainer: Trainer) -> int:
    """The length of the run, in optimizer steps.

    Raises:
        UserError: the run has no end.
    """
    steps = max(1, trainer.estimated_stepping_batches)  # 0: the run is only tested
    if steps == float("inf"):
        raise UserError("error: scheduler: it needs the length of the run; set trainer.max_epochs or max_steps.")
    return int(steps)


def by_name(key: str, given: T | Mapping[str, T], names: Collection[str]) -> Mapping[str, T]:
    """The value of `given` for each optimizer of a task.

    Args:
        key: the key of the config, `optimizer` or `scheduler`.
        given: one value for all optimizers, or a mapping of their names.
        names: the names of the optimizers; a single optimizer has the name "".

    Raises:
        UserError: the mapping has other names.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    if "" in names:
        fail([f"{key}: the task has one {key}; expected a _target_, got the names {', '.join(given)}"])
    problems = [f"{key}: {unknown('name', name, names)}" for name in given if name not in names]
    problems += [f"{key}.{name}: the task needs it" for name in names if name not in given and not problems]
    if problems:
        fail(problems)
    return given


def by_key(key: str, node: Any) -> dict[str, Any]:
    """Return the objects of a config's `optimizer` or `scheduler` by their keys: one, or one for each name."""
    return {key: node} if _is_one(node) else {f"{key}.{name!s}": node[name] for name in node}


def factories(node: Any) -> Any:
    """Return the factory of a config's optimizer or schedule, or a factory for each name."""
    return instantiate(node) if _is_one(node) else {str(name): instantiate(node[name]) for name in node}


def _is_one(node: Any) -> bool:
    """Return whether a node of the config is one object, not a mapping of names."""
    return not isinstance(node, DictConfig) or "_target_" in node
