"""A finished run that scores another run or teaches it. A task takes its folder as an argument `judge` or `teacher`."""

import copy
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lab.data.base import Data
from lab.data.batches import Batch
from lab.engine.errors import UserError
from lab.engine.files import expanded
from lab.engine.folder import BEST, check_finished
from lab.engine.runs.checkpoints import stored_digest

CHANGED = "its weights have changed since the run was started. Start a new run to use the new weights"

loader: Callable[[Path], tuple[Any, Data, Any]] | None = None  # folder -> config, data, task. `lab.runs` sets it
EXPECTED: dict[Path, str | None] = {}  # folder -> the fingerprint that the weights must have. `lab.runs.judges` sets it


class Judge:
    """A finished run with frozen weights, in evaluation mode, on the device of its batches.

    The run is loaded at its first use. All judges of one folder share one module. A judge is not a submodule of the
    task that holds it: its weights are in no checkpoint and no optimizer, and the task can be loaded without it. It
    computes in float32, whatever the precision of the training. Gradients flow to its inputs.

    A batch must be prepared as the judge's net expects: `prepare` does this from the entries of the data. A task may
    pass its batch unchanged if both runs have the same data and splits, and so the same normalisation. If these differ,
    a warning is printed at the start of the run.

    Args:
        folder: the folder of the finished run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(str(folder)).absolute()
        self.fingerprint = EXPECTED.get(self.folder)  # None: any weights

    def __call__(self, batch: Batch) -> Any:
        """The result of `predict_step` of the judge's task, such as probabilities."""
        task, batch = self._at(batch)
        with torch.autocast(task.device.type, enabled=False):
            return task.predict_step(batch, 0)

    def logits(self, batch: Batch) -> Tensor:
        """The output of the judge's net."""
        task, batch = self._at(batch)
        with torch.autocast(task.device.type, enabled=False):
            logits: Tensor = task(batch)
        return logits

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The inputs (B, D) of the last linear layer of the judge's net, and its output, such as logits.

        If a call of the net calls the layer several times, as a test-time flip does, the features are their mean.

        Raises:
            UserError: the net has no linear layer.
        """
        layers = [module for module in self.loaded[1].net.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise UserError(f"error: {self.folder}: its net has no linear layer, whose inputs are the features.")
        found: list[Tensor] = []
        hook = layers[-1].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            logits = self.logits(batch)
        finally:
            hook.remove()
        return torch.stack(found).mean(0), logits

    def prepare(self, batch: Batch) -> Batch:
        """Turn the entries of the data, such as uint8 images, into the batch that the judge's net expects."""
        return self.loaded[0].on_after_batch_transfer(batch)

    @property
    def facts(self) -> Any:
        """The facts of the judge's data."""
        return self.loaded[0].facts

    @property
    def input_entries(self) -> list[str]:
        """The entries of a batch that the judge's net takes."""
        return list(self.loaded[1].input_entries)

    @cached_property
    def loaded(self) -> tuple[Data, Any]:
        """The data and the task of the run."""
        check_finished(self.folder)
        current = stored_digest(self.folder / BEST)
        if self.fingerprint not in (None, current):
            raise UserError(f"error: {self.folder}: {CHANGED}.")
        return load_judge(self.folder, current)

    def _at(self, batch: Batch) -> tuple[LightningModule, Batch]:
        """The task, and the batch in float32; the task is moved to the device of the batch."""
        task, device = self.loaded[1], next(iter(batch.values())).device
        if task.device != device:
            with torch.inference_mode(False):
                task.to(device)
        return task, {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Judge":
        return self  # weight averaging copies the task, but not its judges


@lru_cache(maxsize=4)
def load_judge(folder: Path, fingerprint: str) -> tuple[Data, Any]:
    assert loader is not None, "import lab.runs before a judge is used"
    # building the net draws random weights, and a validation step under inference mode may load the judge
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        _, data, task = loader(folder)
        task.net = copy.deepcopy(task.net)  # undoes `compile: true`: a copy is not compiled
        return data, task.requires_grad_(False)
