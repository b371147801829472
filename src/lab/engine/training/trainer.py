from typing import TypeVar, cast

from lightning import Callback, Trainer
from lightning.pytorch.profilers import Profiler

AnyCallback = TypeVar("AnyCallback", bound=Callback)


class Declared(Trainer):
    """Lightning's trainer with the attributes that it has but does not declare: its connectors set them."""

    callbacks: list[Callback]
    log_every_n_steps: int
    overfit_batches: int | float
    profiler: Profiler


def declared(trainer: Trainer) -> Declared:
    return cast(Declared, trainer)


def only(trainer: Trainer, kind: type[AnyCallback]) -> AnyCallback:
    """The only callback of a class that a trainer has."""
    (found,) = (callback for callback in declared(trainer).callbacks if isinstance(callback, kind))
    return found
