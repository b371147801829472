"""A finished run that scores or teaches another one. A task takes its folder as `judge` or `teacher`."""

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from omegaconf import DictConfig
from torch import Tensor

from lab.data.base import Batch, Data
from lab.data.facts import inputs_of
from lab.engine.display import say
from lab.engine.errors import UserError
from lab.engine.folder import BEST, check_finished, expanded
from lab.engine.runs.checkpoints import fingerprint
from lab.features.base import Feature
from lab.runs import judges
from lab.runs.load import load


class Judge:
    """A finished run, frozen and in evaluation mode, on the device of what it is given.

    It is loaded at its first use, and is no module of the task that holds it: no checkpoint and no optimizer has its
    weights, and the task is loaded without it. All judges of a folder are the same module. It computes in float32,
    whatever the precision of the run that asks it. Gradients reach its inputs.

    A batch is as *its* net gets it: `prepare` makes it from raw entries. A task may pass its own batch where both runs
    have the same data and splits, and so normalise by the same numbers; a run that begins warns where these differ.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(str(folder)).absolute()
        self.fingerprint = judges.EXPECTED.get(self.folder)  # that its weights must have; None: any

    def __call__(self, batch: Batch) -> Any:
        """The result of its task's `predict_step` on a batch, such as probabilities."""
        task, batch = self._at(batch)
        with torch.autocast(task.device.type, enabled=False):
            return task.predict_step(batch, 0)

    def logits(self, batch: Batch) -> Tensor:
        """The output of its net on a batch."""
        task, batch = self._at(batch)
        with torch.autocast(task.device.type, enabled=False):
            logits: Tensor = task(batch)
        return logits

    def prepare(self, batch: Batch) -> Batch:
        """A batch as its net gets it, of entries as its data has them: images are levels of 0 to 255."""
        return self._loaded[0].on_after_batch_transfer(batch)

    @property
    def facts(self) -> Any:
        """The facts of its data."""
        return self._loaded[0].facts

    @cached_property
    def _loaded(self) -> tuple[Data, Any]:
        check_finished(self.folder)
        found = fingerprint(self.folder / BEST)
        if self.fingerprint not in (None, found):
            raise UserError(f"error: {self.folder}: {judges.CHANGED}.")
        return _load(self.folder, found)

    def _at(self, batch: Batch) -> tuple[LightningModule, Batch]:
        task, device = self._loaded[1], next(iter(batch.values())).device
        if task.device != device:
            with torch.inference_mode(False):
                task.to(device)
        return task, {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Judge":
        return self  # an average of the task's weights asks the same


@lru_cache(maxsize=4)
def _load(folder: Path, fingerprint: str) -> tuple[Data, Any]:
    # its first weights are drawn, and a validation step may be the first to ask it
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        _, data, task = load(folder)
        task.net = copy.deepcopy(task.net)  # a copy is not compiled
        return data, task.requires_grad_(False)


def check_inputs(cfg: DictConfig, data: Data) -> None:
    """Refuse judges that take other inputs than those of the data; warn where only their statistics differ.

    Raises:
        UserError: a line for each judge.
    """
    problems, own = [], data.facts.features
    for key, folder in judges.folders(cfg).items():
        its_data, task = Judge(folder)._loaded
        inputs = inputs_of(its_data.facts.features, task.input_entries)
        if differ := list(_differences(inputs, own)):
            problems.append(f"error: {key}={folder}: its inputs are not those of this data: {', '.join(differ)}.")
        elif others := list(_other_statistics(inputs, own)):
            names = " and ".join(others)
            say(f"warning: {key}={folder}: its {names} differ from this data's: it needs batches of Judge.prepare.")
    if problems:
        raise UserError(*problems)


def _other_statistics(theirs: Mapping[str, Feature], own: Mapping[str, Feature]) -> Iterator[str]:
    """Yield the facts that differ though a net of one works with the other, such as `image_mean`."""
    for name, feature in theirs.items():
        now = own[name].facts()
        yield from (f"{name}_{fact}" for fact, value in feature.facts().items() if now[fact] != value)


def _differences(theirs: Mapping[str, Feature], own: Mapping[str, Feature]) -> Iterator[str]:
    """Yield what the inputs of a judge lack, or state differently."""
    for name, feature in theirs.items():
        if name not in own:
            yield f"{name} is missing"
            continue
        was, now = feature.facts(), own[name].facts()
        for fact in feature.changes(own[name]) if type(feature) is type(own[name]) else ():
            yield f"{fact} is {_short(was[fact])} in the judge, {_short(now[fact])} here"
        if type(feature) is not type(own[name]):
            yield f"{name} is of another type"


def _short(value: Any) -> str:
    return text if len(text := str(value)) < 30 else f"{text[:20]}…"
