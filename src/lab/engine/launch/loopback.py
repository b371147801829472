"""The processes of a run on one machine find each other there, and listen to nobody else."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.distributed import _destroy_dist_connection

from lab.engine.launch.environment import RENDEZVOUS


def use_loopback(trainer: Trainer) -> None:
    """Let the processes that are started on this machine meet in a file, and talk over the loopback device.

    By itself torch opens a port for their meeting to the whole network, whatever address it is given. Where others
    start them (torchrun, SLURM), or on several machines, they meet as those mean them to.
    """
    strategy: Any = trainer.strategy
    if not isinstance(getattr(strategy, "cluster_environment", None), LightningEnvironment) or trainer.num_nodes > 1:
        return
    if RENDEZVOUS not in os.environ:
        folder = tempfile.mkdtemp(prefix="lab-meeting-")  # on this machine's disk: network file systems lock badly
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[RENDEZVOUS] = str(Path(folder) / "meeting")
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    set_up = strategy.setup_environment

    def setup_environment() -> None:
        if not torch.distributed.is_initialized():  # what Lightning does next, and leaves out where it is done
            device, backend = strategy.root_device, strategy._get_process_group_backend()
            strategy.accelerator.setup_device(device)
            strategy.set_world_ranks()
            torch.distributed.init_process_group(
                backend,
                init_method=f"file://{os.environ[RENDEZVOUS]}",
                timeout=strategy._timeout,
                rank=strategy.global_rank,
                world_size=strategy.world_size,
                device_id=device if device.type != "cpu" else None,
            )
            if backend == "nccl":
                atexit.register(_destroy_dist_connection)
        set_up()

    strategy.setup_environment = setup_environment
