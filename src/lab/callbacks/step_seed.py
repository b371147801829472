import hashlib
import random
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer

from lab.engine.training.lightning_quirks import seed_generators


class StepSeed(Callback):
    """Seeds the global generators before each batch, so that dropout and other draws do not depend on earlier ones.

    In training the numbers are a function of seed, epoch, batch and rank: a resumed run draws the same numbers. In
    evaluation they are a function of seed, stage, batch and rank: a second evaluation with the same batches gives the
    same values. A draw that must not depend on the batches uses `Task.uniform` or `Task.normal`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seed(f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}")

    def on_validation_batch_start(
        self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._seed(f"{self.seed} val {batch_idx} {trainer.global_rank}")

    def on_test_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int, *_: Any) -> None:
        self._seed(f"{self.seed} test {batch_idx} {trainer.global_rank}")

    def _seed(self, key: str) -> None:
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        seed_generators(number % 2**63)
        np.random.seed(number % 2**32)
        random.seed(number)
