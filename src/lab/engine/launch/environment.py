"""How this process was started, from environment variables. Imports neither torch nor Lightning."""

import os
import sys

LIFELINE = "LAB_LIFELINE"  # the variable of the socket to the process that started this one
RENDEZVOUS = "LAB_RENDEZVOUS"  # the variable of the file through which the ranks on one machine find each other
COMMAND = [
    sys.executable,
    "-P",
    "-c",
    "from lab.engine.cli import main; main()",
]  # -P: no module of the working directory

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
SRUN = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
RANKS = (  # from which torch and Lightning read ranks and world sizes
    *TORCHRUN, "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK",
    "JSM_NAMESPACE_RANK",
)  # fmt: skip
TASKS = (
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS_PER_NODE",
)  # fmt: skip
BATCH_ONLY = ("SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")  # SLURM sets them only in batch jobs


def use_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding.

    File names would be decoded into other letters, also in the tables that lab writes in UTF-8.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    terminal = getattr(sys.stdout, "encoding", None) or "utf-8"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{terminal}:backslashreplace"}
    arguments: list[str | bytes] = [*sys.orig_argv]
    if os.path.exists("/proc/self/cmdline"):  # the original bytes: not every encoding restores them
        with open("/proc/self/cmdline", "rb") as file:
            arguments = [*file.read().split(b"\0")[:-1]]
    os.execv(sys.executable, [sys.executable, *arguments[1:]])


def drop_stale_ranks() -> None:
    """Remove variables of ranks that neither torchrun nor srun set for this process.

    A shell, a container or an earlier job may leave them behind; Lightning would read a world size from them.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes import no calendar.py of the working directory
    if LIFELINE in os.environ or RENDEZVOUS in os.environ:  # lab started this process
        return
    stale = (*(() if by_torchrun() else RANKS), *(() if by_srun() else TASKS))
    for name in stale:
        os.environ.pop(name, None)


def by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return all(os.environ.get(name) for name in TORCHRUN)


def by_srun() -> bool:
    """Return whether srun started this process as one of several tasks. A batch script is one process."""
    return all(os.environ.get(name) for name in SRUN) and env_int("SLURM_STEP_NUM_TASKS", 1) > 1


def slurm_job() -> str | None:
    """Return the name for `scontrol` of this process's batch job, which SLURM may requeue; None in other jobs.

    In an interactive job (`salloc`, `srun --pty`) a user may repeat a command on purpose. SLURM sets
    `ENVIRONMENT=BATCH` for a batch script, and its `srun` tasks inherit it; a terminal means an interactive job.
    """
    batch = os.environ.get("ENVIRONMENT") == "BATCH" or any(name in os.environ for name in BATCH_ONLY)
    if not batch or (sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()):
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def num_threads() -> int | None:
    """Return the number of threads in OMP_NUM_THREADS, the first of a list such as `4,2`; None if unset."""
    return env_int("OMP_NUM_THREADS", 0) or None


def env_int(name: str, default: int) -> int:
    """Return a non-negative integer of the environment, or the first of a list, else the default."""
    text = os.environ.get(name, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdecimal() else default
