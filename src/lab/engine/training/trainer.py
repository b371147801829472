from typing import TypeVar, cast

from lightning import Callback, Trainer
from lightning.pytorch.profilers import Profiler

AnyCallback = TypeVar("AnyCallback", bound=Callback)


class TypedTrainer(Trainer):
    """Annotations of the attributes that Lightning's connectors set and its trainer does not declare."""

    callbacks: list[Callback]
    log_every_n_steps: int
    overfit_batches: int | float
    profiler: Profiler


def typed(trainer: Trainer) -> TypedTrainer:
    """Return the trainer itself, for the type checker."""
    return cast(TypedTrainer, trainer)


def find_callback(trainer: Trainer, kind: type[AnyCallback]) -> AnyCallback:
    """Return the trainer's callback of a class.

    Raises:
        ValueError: it has none, or several.
    """
    (callback,) = (callback for callback in typed(trainer).callbacks if isinstance(callback, kind))
    return callback
