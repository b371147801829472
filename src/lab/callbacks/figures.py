"""Figures of a run: of its training, and of the splits by the best weights."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn

from lab.callbacks.shared import data_of, forgiven, gathered, task_of
from lab.callbacks.sounds import keep_sounds
from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine.display import printable, printable_lines
from lab.engine.files import read_text, write_text
from lab.engine.folder import CONFIG, FIGURES, STAMP
from lab.engine.training.lightning_quirks import add_summary, is_compiled
from lab.engine.training.trainer import typed
from lab.features.base import sample_of
from lab.tasks.base import Task

MOST_EMBEDDED = 1000  # samples in the projector
NUM_TRAINING = 32  # samples of the first training batch


class Figures(Callback):
    """Writes figures as PNG files and to TensorBoard.

    They are training samples, `Task.epoch_figures` after each epoch, and `Task.figures` for val and test. The outputs
    named in `Task.keeps`, and the features of TensorBoard's projector, are kept on the CPU of process 0.

    Args:
        folder: the run's.
        loggers: the run's; TensorBoard's gets the figures.
        draw: whether there are figures.
    """

    def __init__(self, folder: Path, loggers: Sequence[Logger], draw: bool) -> None:
        self.folder, self.draw = folder, draw
        self.boards = [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
        self.samples: Batch | None = None  # of the first training batch
        self.takes_samples = False
        self.kept = KeptOutputs(0)
        self.projector: Projector | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.takes_samples = self.draw and trainer.is_global_zero and trainer.global_step == 0
        if self.draw and trainer.is_global_zero:
            for name, language in ((CONFIG, "yaml"), (STAMP, "json")):
                self._write(name, f"```{language}\n{read_text(self.folder / name)}\n```", trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self.takes_samples:
            self.samples, self.takes_samples = first_rows(batch), False

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not (self.draw and trainer.is_global_zero):
            return
        if self.samples is not None:  # drawing them before the first step would delay it
            self.write_figures("train", data_of(trainer).figures(self.samples), trainer.global_step)
            self.samples = None
        task = task_of(module)
        if type(task).epoch_figures is not Task.epoch_figures:
            self.write_figures("epoch", epoch_figures(trainer, task), trainer.global_step)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.kept = KeptOutputs(len(data_of(trainer).splits["val"]))

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.kept = KeptOutputs(len(data_of(trainer).splits["test"]))
        if self.draw and trainer.is_global_zero and self.boards:
            self.projector = Projector(task_of(module).net)

    def on_test_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if self.projector is not None:
            self.projector.batch_index = batch["index"]

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._collect(trainer, task_of(module), outputs, batch)

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, *_: Any) -> None:
        self._collect(trainer, task_of(module), outputs, batch)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end("val", trainer, task_of(module))

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.projector is not None:
            self.projector.remove()
            self._project(self.projector, trainer)
            self.projector = None
        self._end("test", trainer, task_of(module))

    def _collect(self, trainer: Trainer, task: Task, outputs: dict[str, Tensor], batch: Batch) -> None:
        if not self.draw or type(task).figures is Task.figures:
            return
        own = {name: outputs[name].detach().cpu() for name in task.keeps}
        for index, values in gathered(trainer, (batch["index"].cpu(), own)):
            self.kept.add(index, values)

    def _end(self, stage: str, trainer: Trainer, task: Task) -> None:
        if self.draw and trainer.is_global_zero and type(task).figures is not Task.figures:
            index, values = self.kept.take()
            figures = task.figures(ShownSamples(data_of(trainer), stage, index), values)
            self.write_figures(stage, figures, trainer.global_step)
        self.kept = KeptOutputs(0)

    def write_figures(self, stage: str, figures: dict[str, Any], step: int) -> None:
        """Write figures, and texts, as files and for TensorBoard."""
        with forgiven(self.folder):
            (self.folder / FIGURES).mkdir(exist_ok=True)
            for name, figure in figures.items():
                path = self.folder / FIGURES / f"{stage}_{name}"
                if isinstance(figure, str):
                    write_text(path.with_suffix(".md"), f"{printable_lines(figure)}\n")
                    self._write(f"{stage}/{name}", figure, step)
                else:
                    from lab.figures.page import Heard, save  # matplotlib takes half a second

                    if isinstance(figure, Heard):
                        keep_sounds(figure.sounds, path, f"{stage}/{name}", self.boards, step)
                        figure = figure.figure
                    save(figure, path.with_suffix(".png"), pil_kwargs={"compress_level": 1})
                    self._show(f"{stage}/{name}", path.with_suffix(".png").read_bytes(), step)

    def _show(self, name: str, png: bytes, step: int) -> None:
        """Write the PNG unchanged; `add_image` would compress it again."""
        image = Summary.Image(encoded_image_string=png, colorspace=3)
        image.width, image.height = struct.unpack(">II", png[16:24])
        for board in self.boards:
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            add_summary(board, summary, step)

    def _write(self, name: str, text: str, step: int) -> None:
        for board in self.boards:
            board.experiment.add_text(name, printable_lines(text), step)

    def _project(self, projector: "Projector", trainer: Trainer) -> None:
        """Write the inputs of the net's last layer for TensorBoard's projector."""
        if not projector.features:
            return
        feature, index = torch.cat(projector.features), torch.cat(projector.index).tolist()
        data = data_of(trainer)
        arrays = {name: rows.cpu().numpy() for name, rows in data.splits["test"].__getitems__(index).items()}
        features = data.facts.features.values()
        captions = [[f.caption(sample_of(arrays, i, f.entries)) for f in features] for i in range(len(index))]
        names = [printable(", ".join(filter(None, words))) for words in captions]
        pictures = next((found for f in features if (found := f.thumbnails(arrays)) is not None), None)
        image = None if pictures is None else torch.from_numpy(pictures)
        with forgiven(self.folder):
            for board in self.boards:
                board.experiment.add_embedding(
                    feature, names if any(names) else None, image, trainer.global_step, "test"
                )


class KeptOutputs:
    """Outputs of a split's samples on the CPU, each row at the place of its sample.

    Args:
        num_samples: of the split. Memory is used for those that come.
    """

    def __init__(self, num_samples: int) -> None:
        self.seen = torch.zeros(num_samples, dtype=torch.bool)
        self.values: dict[str, Tensor] = {}

    def add(self, index: Tensor, values: dict[str, Tensor]) -> None:
        self.seen[index] = True
        for name, rows in values.items():
            if name not in self.values:
                self.values[name] = rows.new_empty(len(self.seen), *rows.shape[1:])
            whole = self.values[name]
            if whole.shape[1:] != rows.shape[1:]:
                shapes = f"{tuple(rows.shape[1:])}, and before {tuple(whole.shape[1:])}"
                raise ValueError(f"{name}, which figures take, has another shape than in an earlier batch: {shapes}")
            whole[index] = rows

    def take(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The index of each sample that came, and the outputs in the same order."""
        index = self.seen.nonzero()[:, 0]
        if len(index) == len(self.seen):
            return index, self.values
        return index, {name: whole[index] for name, whole in self.values.items()}


class Projector:
    """Features of the first samples of a split: what the last linear layer of a net is given.

    Args:
        net: a compiled one has no features, for hooks do not run in it.
    """

    def __init__(self, net: nn.Module) -> None:
        heads = [module for module in net.modules() if isinstance(module, nn.Linear)]
        self.features: list[Tensor] = []
        self.index: list[Tensor] = []
        self.batch_index: Tensor | None = None  # of the batch whose features have not come yet
        self.hook = heads[-1].register_forward_pre_hook(self._embed) if heads and not is_compiled(net) else None

    def _embed(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        index, room = self.batch_index, MOST_EMBEDDED - sum(map(len, self.index))
        if index is None or not room or inputs[0].ndim != 2 or len(inputs[0]) != len(index):
            return  # already stored, or not one vector per sample
        self.features.append(inputs[0][:room].float().cpu())
        self.index.append(index[:room].cpu())
        self.batch_index = None

    def remove(self) -> None:
        if self.hook is not None:
            self.hook.remove()


def first_rows(batch: Batch) -> Batch:
    """A copy of a batch's first samples."""
    return {name: value[:NUM_TRAINING].clone() for name, value in batch.items()}


@torch.no_grad()
def epoch_figures(trainer: Trainer, task: Task) -> dict[str, Any]:
    """The figures of a task after an epoch, in eval mode, with the averaged weights where validation has them.

    Each module then has the mode, and the weights, that it had.
    """
    modes = [(module, module.training) for module in task.modules()]
    averages = [callback for callback in typed(trainer).callbacks if isinstance(callback, WeightAveraging)]
    task.eval()
    for average in averages:
        average.on_validation_epoch_start(trainer, task)  # which puts its weights in
    try:
        with trainer.precision_plugin.forward_context():
            return task.epoch_figures(trainer.current_epoch)
    finally:
        for average in averages:
            average.on_validation_epoch_end(trainer, task)
        for module, training in modes:
            module.training = training
