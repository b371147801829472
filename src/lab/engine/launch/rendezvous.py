"""Processes that torchrun or SLURM started for one run: the first decides on its folder, the others join it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from lab.engine.errors import UserError
from lab.engine.launch import environment


def meet(accelerator: str) -> int:
    """This process's rank, after it has met the others; 0 where it was started alone."""
    started = cluster()
    if started is None or started.world_size() == 1:
        return 0
    os.environ |= {"MASTER_ADDR": started.main_address, "MASTER_PORT": str(started.main_port)}
    backend = "gloo" if accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(  # Lightning finds it done
        backend, rank=started.global_rank(), world_size=started.world_size()
    )
    return started.global_rank()


def cluster() -> ClusterEnvironment | None:
    """The cluster environment if torchrun or srun started this process, else None."""
    if environment.by_torchrun():
        return TorchElasticEnvironment()
    if not environment.by_srun():
        return None
    try:
        return SLURMEnvironment()
    except RuntimeError as error:  # it refuses --ntasks
        raise UserError(f"error: srun: {' '.join(str(error).split())}") from error


@contextmanager
def announced() -> Iterator[Callable[[Path], None]]:
    """Yield what tells the others the run's folder. Left without having told one, it tells them that there is none."""
    told = not torch.distributed.is_initialized()

    def announce(folder: Path | None) -> None:
        nonlocal told
        if not told:
            told = True
            torch.distributed.broadcast_object_list([folder and str(folder.absolute())])

    try:
        yield announce
    finally:
        announce(None)


def announced_folder() -> str:
    """The run's folder, when the first process has made it; where there will be none, the exit."""
    content: list[str | None] = [None]
    torch.distributed.broadcast_object_list(content)
    if content[0] is None:
        raise SystemExit(0)  # the first says why
    return content[0]


def refuse_several(word: str, what: str) -> None:
    """Raises UserError where torchrun or srun has started several processes for what is done by one."""
    if environment.by_srun() or (environment.by_torchrun() and environment.env_int("WORLD_SIZE", 1) > 1):
        raise UserError(f"error: {word}: torchrun or srun started several processes for one run; start {what} directly")


def check_size(trainer: Trainer) -> None:
    """Raises UserError where the trainer is not for as many processes as were started."""
    if trainer.num_nodes > 1 and cluster() is None:
        raise UserError(
            f"error: trainer.num_nodes={trainer.num_nodes}: a run on several machines needs torchrun or srun"
            " on each machine."
        )
    if torch.distributed.is_initialized() and (num := torch.distributed.get_world_size()) != trainer.world_size:
        raise UserError(
            f"error: trainer: it is for {trainer.world_size} process, but {num} were started. Set trainer=ddp,"
            " trainer.devices to the processes on each machine, and trainer.num_nodes to the machines."
        )
