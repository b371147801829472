"""Processes that torchrun or SLURM started for one run: the first decides on its folder, the others join it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment

from lab.errors import UserError


def meet(accelerator: str) -> int:
    """This process's rank, after it has met the others; 0 where it was started alone."""
    environment = _environment()
    if environment is None or environment.world_size() == 1:
        return 0
    os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    backend = "gloo" if accelerator == "cpu" or not torch.cuda.is_available() else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(  # Lightning finds it done
        backend, rank=environment.global_rank(), world_size=environment.world_size()
    )
    return environment.global_rank()


def _environment() -> ClusterEnvironment | None:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    in_step = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1  # of srun: a batch script alone is one process
    return SLURMEnvironment() if in_step else None


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
    if int(os.environ.get("WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise UserError(
            f"error: {word}: torchrun or srun started several processes for one run; start {what} without them"
        )


def check_size(world_size: int) -> None:
    """Raises UserError where the trainer is not for as many processes as were started."""
    if torch.distributed.is_initialized() and (started := torch.distributed.get_world_size()) != world_size:
        raise UserError(
            f"error: trainer: it is for {world_size} process, and {started} were started: trainer=ddp, trainer.devices"
            " to those on each machine, trainer.num_nodes to the machines."
        )
