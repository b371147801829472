"""The rendezvous of processes that torchrun or SLURM started for one run: rank 0 chooses the folder of all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from lab.engine.errors import UserError
from lab.engine.launch import environment


def init_distributed(accelerator: str) -> int:
    """Initialize the process group of torchrun or SLURM and return the rank; 0 for a process that started alone."""
    cluster = cluster_environment()
    if cluster is None or cluster.world_size() == 1:
        return 0
    os.environ |= {"MASTER_ADDR": cluster.main_address, "MASTER_PORT": str(cluster.main_port)}
    backend = "gloo" if accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(  # Lightning finds it initialized
        backend, rank=cluster.global_rank(), world_size=cluster.world_size()
    )
    return cluster.global_rank()


def cluster_environment() -> ClusterEnvironment | None:
    """Return the cluster environment if torchrun or srun started this process, else None.

    Raises:
        UserError: Lightning refuses the options of srun, such as --ntasks.
    """
    if environment.by_torchrun():
        return TorchElasticEnvironment()
    if not environment.by_srun():
        return None
    try:
        return SLURMEnvironment()
    except RuntimeError as error:
        raise UserError(f"error: srun: {' '.join(str(error).split())}") from error


@contextmanager
def announcing_folder() -> Iterator[Callable[[Path], None]]:
    """Yield a function that sends the run's folder to the other ranks. Without a call, the exit sends None."""
    is_sent = not torch.distributed.is_initialized()

    def announce(folder: Path | None) -> None:
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            torch.distributed.broadcast_object_list([folder and str(folder.absolute())])

    try:
        yield announce
    finally:
        announce(None)


def receive_folder() -> str:
    """Return the folder that rank 0 sends. Exit with code 0 where it sends None: rank 0 reports the reason."""
    content: list[str | None] = [None]
    torch.distributed.broadcast_object_list(content)
    if content[0] is None:
        raise SystemExit(0)
    return content[0]


def refuse_multiple_processes(word: str, command: str) -> None:
    """Raise UserError where torchrun or srun started several processes of a command that needs one.

    Args:
        word: the part of the command line that the message names.
        command: what the user should start directly.
    """
    if environment.by_srun() or (environment.by_torchrun() and environment.env_int("WORLD_SIZE", 1) > 1):
        raise UserError(
            f"error: {word}: torchrun or srun started several processes for one run; start {command} directly"
        )


def check_world_size(trainer: Trainer) -> None:
    """Raise UserError where the number of started processes is not the trainer's world size."""
    if trainer.num_nodes > 1 and cluster_environment() is None:
        raise UserError(
            f"error: trainer.num_nodes={trainer.num_nodes}: a run on several machines needs torchrun or srun"
            " on each machine."
        )
    if torch.distributed.is_initialized() and (num := torch.distributed.get_world_size()) != trainer.world_size:
        raise UserError(
            f"error: trainer: its world size is {trainer.world_size}, but {num} processes were started. Set"
            " trainer=ddp, trainer.devices to the processes on each machine, and trainer.num_nodes to the machines."
        )
