"""Functions shared by the callbacks that read a task's outputs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer

from lab.data.base import Data
from lab.engine.display import say
from lab.tasks.base import Task


def task_of(module: LightningModule) -> Task:
    """Return the module as a `Task`: Lightning annotates hooks with the base class."""
    assert isinstance(module, Task)
    return module


def data_of(trainer: Any) -> Data:
    """Return the data module of a trainer, an attribute that Lightning does not declare."""
    data = trainer.datamodule
    assert isinstance(data, Data)
    return data


def gathered(trainer: Trainer, own: Any) -> list[Any]:
    """Gather an object from every rank to rank 0; the other ranks get []. Every rank must call it."""
    if trainer.world_size == 1:
        return [own]
    every = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(own, every)
    return every or []


@contextmanager
def forgiven(folder: Path) -> Iterator[None]:
    """Print an OSError, such as a full disk, as a warning: it must not end the training."""
    try:
        yield
    except OSError as error:
        say(f"warning: {folder}: {error}", file=sys.stderr)
