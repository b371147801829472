import hashlib
import json

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from lab.engine.errors import RunError


class RankConsistency(Callback):
    """Ends a run whose ranks do not start with the same config and the same weights.

    DDP would average gradients of different models, and each rank would apply them with its config.
    """

    def __init__(self, cfg: DictConfig) -> None:
        config = OmegaConf.to_container(cfg, resolve=True)
        self.config = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()  # it may hold a secret

    def setup(self, trainer: Trainer, task: LightningModule, stage: str) -> None:
        """Compare before DDP broadcasts the weights of rank 0."""
        if trainer.world_size == 1 or stage != "fit":
            return
        own = {"configs": self.config, "weights": checksum(task)}
        every: list[dict[str, str]] = [{}] * trainer.world_size
        torch.distributed.all_gather_object(every, own)
        for what in own:
            if wrong := [rank for rank, theirs in enumerate(every) if theirs[what] != every[0][what]]:
                raise RunError(
                    f"error: the {what} of processes 0 and {wrong[0]} differ. Start all with the same command."
                )


def checksum(task: LightningModule) -> str:
    """The SHA-256 of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in task.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
