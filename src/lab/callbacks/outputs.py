import csv
import io
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn

from lab.data.base import Batch, Data, Samples
from lab.display import csv_cell, printable, printable_lines, say
from lab.folder import CONFIG, FIGURES, PREDICTIONS, STAMP, read_text, write_text
from lab.tasks.base import Task

MOST_EMBEDDED = 1000  # samples in the projector


class Outputs(Callback):
    """Keeps what the best weights make of samples: `test_predictions.csv`, and figures of the test and val splits.

    Figures are PNG files in the run's folder, and TensorBoard's.

    Args:
        folder: the run's.
        loggers: the run's; TensorBoard's gets the figures.
        draw: figures too.
    """

    def __init__(self, folder: Path, loggers: Sequence[Logger], draw: bool) -> None:
        self.folder, self.draw = folder, draw
        self.boards = [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
        self.outputs: list[tuple[Tensor, ...]] = []
        self.samples: Batch | None = None  # of the first training batch
        self.features: list[Tensor] = []
        self.hook: Any = None  # that collects them

    def on_train_start(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        if not (self.draw and trainer.is_global_zero and trainer.global_step == 0):
            self.on_train_batch_start = None  # type: ignore[method-assign,assignment]
        if self.draw and trainer.is_global_zero:
            for name, language in ((CONFIG, "yaml"), (STAMP, "json")):
                self._write(name, f"```{language}\n{read_text(self.folder / name)}\n```", trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        self.samples = {name: values[:32].clone() for name, values in batch.items()}
        self.on_train_batch_start = None  # type: ignore[method-assign,assignment]

    def on_train_epoch_end(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        if self.samples is not None:  # not before the first step, which they would keep waiting
            data: Data = trainer.datamodule  # type: ignore[attr-defined]
            self._keep("train", data.figures(self.samples), trainer.global_step)
            self.samples = None

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        self.outputs = []

    def on_test_start(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        self.outputs, self.features = [], []
        heads = [module for module in task.net.modules() if isinstance(module, nn.Linear)]
        if self.draw and trainer.is_global_zero and self.boards and heads and task.net._compiled_call_impl is None:
            self.hook = heads[-1].register_forward_pre_hook(self._embed)

    def _embed(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].ndim != 2:  # not a vector of each sample
            return
        if sum(map(len, self.features)) < MOST_EMBEDDED and len(self.features) == len(self.outputs):  # once a batch
            self.features.append(inputs[0].float().cpu())

    def on_validation_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Batch, *_: Any) -> None:  # type: ignore[override]
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.outputs.append((batch["index"], *outputs))

    def on_test_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Batch, *_: Any) -> None:  # type: ignore[override]
        self.outputs.append((batch["index"], *outputs))

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        if self.draw and trainer.state.fn == TrainerFn.VALIDATING:
            self._end("val", trainer, task)

    def on_test_end(self, trainer: Trainer, task: Task) -> None:  # type: ignore[override]
        if self.hook is not None:
            self.hook.remove()
            self.hook = None
        if self.features:
            self._project(trainer)
        self._end("test", trainer, task)

    def _end(self, stage: str, trainer: Trainer, task: Task) -> None:
        if type(task).predictions is Task.predictions and type(task).figures is Task.figures:
            return  # a task that says nothing of its samples; its outputs may be of any shapes
        index, *tensors = (torch.cat(values).cpu() for values in zip(*self.outputs, strict=True))
        if trainer.world_size > 1:
            every: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(every, (index, *tensors))
            index, *tensors = map(torch.cat, zip(*every, strict=True))
        if not trainer.is_global_zero:
            return
        order = index.argsort()
        index, *tensors = (tensor[order] for tensor in (index, *tensors))
        data: Data = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "test":
            names = data.names.get(stage) or range(len(data.splits[stage]))
            if columns := task.predictions(*tensors):
                self._tabulate([names[i] for i in index.tolist()], columns)
        if self.draw:
            self._keep(stage, task.figures(Samples(data, stage, index), *tensors), trainer.global_step)

    def _tabulate(self, names: Sequence[Any], columns: dict[str, Sequence[Any]]) -> None:
        rows = zip(names, *columns.values(), strict=True)
        cells = io.StringIO(newline="")
        csv.writer(cells).writerow(["sample", *map(csv_cell, columns)])
        csv.writer(cells).writerows([_cell(v) for v in row] for row in rows)
        with forgiven(self.folder):
            write_text(self.folder / PREDICTIONS, cells.getvalue())

    def _keep(self, stage: str, figures: dict[str, Any], step: int) -> None:
        """Write figures, and texts, as files and for TensorBoard."""
        with forgiven(self.folder):
            (self.folder / FIGURES).mkdir(exist_ok=True)
            for name, figure in figures.items():
                path = self.folder / FIGURES / f"{stage}_{name}"
                if isinstance(figure, str):
                    write_text(path.with_suffix(".md"), f"{printable_lines(figure)}\n")
                    self._write(f"{stage}/{name}", figure, step)
                else:
                    from lab.figures.page import save  # matplotlib takes half a second

                    save(figure, path.with_suffix(".png"), pil_kwargs={"compress_level": 1})
                    self._show(f"{stage}/{name}", path.with_suffix(".png").read_bytes(), step)

    def _show(self, name: str, png: bytes, step: int) -> None:
        """As it is: `add_image` would compress it once more."""
        image = Summary.Image(encoded_image_string=png, colorspace=3)
        image.width, image.height = struct.unpack(">II", png[16:24])
        for board in self.boards:
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            board.experiment._get_file_writer().add_summary(summary, step)

    def _write(self, name: str, text: str, step: int) -> None:
        for board in self.boards:
            board.experiment.add_text(name, printable_lines(text), step)

    def _project(self, trainer: Trainer) -> None:
        """What the net's last layer is given, for TensorBoard's projector."""
        feature = torch.cat(self.features)[:MOST_EMBEDDED]
        index = torch.cat([index for index, *_ in self.outputs])[: len(feature)].tolist()
        data: Data = trainer.datamodule  # type: ignore[attr-defined]
        batch = data.splits["test"].__getitems__(index)
        label = data.facts.features.get("label")
        names = [printable(label.choices[i]) for i in batch["label"].tolist()] if label else None
        image = batch["image"].float() / 255 if "image" in batch else None
        with forgiven(self.folder):
            for board in self.boards:
                board.experiment.add_embedding(feature, names, image, trainer.global_step, "test")


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else csv_cell(value) if isinstance(value, str) else value


@contextmanager
def forgiven(folder: Path) -> Iterator[None]:
    """A full disk does not undo a training."""
    try:
        yield
    except OSError as error:
        say(f"warning: {folder}: {error}", file=sys.stderr)
