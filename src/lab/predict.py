"""`lab predict`: a finished run's answers for one's own files."""

import csv
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lab import config, run
from lab.errors import UserError

NUM_SHOWN = 20


def main(cfg: DictConfig) -> None:
    config.quiet()
    saved, data, task = run.load(cfg.run)
    run.settle(saved)
    if not Path(cfg.input).exists():
        raise UserError(f"error: input={cfg.input}: there is no such file or folder.")
    if not Path(cfg.output).absolute().parent.is_dir():
        raise UserError(f"error: output={cfg.output}: there is no such folder.")
    data.input = cfg.input
    paths, _ = data.read_inputs(Path(cfg.input))
    trainer = run.evaluation_trainer(saved, cfg.trainer)
    if trainer.world_size > 1:
        config.fail(["trainer: predict uses one process; choose trainer=cpu or trainer=gpu."])
    batches: Any = trainer.predict(task, data)
    probability, label = torch.cat(batches).max(-1)
    names = [data.facts.class_names[i] for i in label.tolist()]
    rows = [(path, name, f"{p:.4f}") for path, name, p in zip(paths, names, probability.tolist(), strict=True)]
    with open(cfg.output, "w", newline="") as file:
        csv.writer(file).writerows([("path", "class", "probability"), *rows])
    width = max(len(path) for path, _, _ in rows[:NUM_SHOWN])
    print(*(f"{path:<{width}}  {p}  {name}" for path, name, p in rows[:NUM_SHOWN]), sep="\n")
    more = f" ({len(rows) - NUM_SHOWN} more than shown)" if len(rows) > NUM_SHOWN else ""
    print(f"\n{len(rows)} predictions in {cfg.output}{more}")
