"""Training steps without a run: the loss of each, and samples for the first weights."""

import shutil
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig

from lab.build import build_trainer
from lab.runs.open import Run
from lab.train import prepare


class Losses(L.Callback):
    """The loss of every training step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


class Rows:
    """Training samples in memory, as a net's `init_from` takes them."""

    def __init__(self, **entries: torch.Tensor) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(next(iter(self.entries.values())))

    def __getitem__(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.entries.items()}


def step_losses(cfg: DictConfig, num: int, folder: Path) -> list[float]:
    cfg.trainer.max_steps, cfg.trainer.limit_val_batches, cfg.figures = num, 0, False
    data, task = prepare(Run(cfg))
    losses = Losses()
    trainer = build_trainer(cfg, folder)
    trainer.callbacks.append(losses)
    trainer.fit(task, data)
    shutil.rmtree(folder)
    return losses.values
