"""The rendezvous of a run's ranks on one machine, through a file and the loopback device."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from lab.engine.launch.environment import RENDEZVOUS
from lab.engine.training.lightning_quirks import rendezvous_in_file


def use_loopback(trainer: Trainer) -> None:
    """Let the ranks that lab starts on this machine find each other in a file and talk over the loopback device.

    Ranks of torchrun or SLURM, and ranks on several machines, keep the rendezvous of their launcher.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, LightningEnvironment) or trainer.num_nodes > 1:
        return
    if RENDEZVOUS not in os.environ:
        folder = tempfile.mkdtemp(prefix="lab-rendezvous-")  # on a local disk: network file systems lock badly
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[RENDEZVOUS] = str(Path(folder) / "rendezvous")
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    rendezvous_in_file(trainer, os.environ[RENDEZVOUS])
