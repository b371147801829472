import hashlib
import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class StepSeed(Callback):
    """Dropout and all else that a step draws is a function of seed, epoch, batch and process, not of what came before.

    A run that was interrupted goes on with the numbers that it would have drawn.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int) -> None:
        key = f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        torch.random.default_generator.manual_seed(number % 2**63)  # torch.manual_seed takes a millisecond: it notes
        if torch.cuda.is_initialized():  # where it was called, for a GPU that may never be used
            torch.cuda.manual_seed_all(number % 2**63)
        np.random.seed(number % 2**32)
        random.seed(number)
