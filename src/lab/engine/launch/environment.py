"""How this process was started, as the environment says it. Nothing heavy is imported here."""

import os
import sys

LIFELINE = "LAB_LIFELINE"  # the environment's name for the socket to the process that started this one
RENDEZVOUS = "LAB_RENDEZVOUS"  # and for the file that the processes of a run on one machine meet in
COMMAND = [
    sys.executable,
    "-P",
    "-c",
    "from lab.engine.cli import main; main()",
]  # -P: no module of the working directory

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
SRUN = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
RANKS = (  # what torch and Lightning take for a process's place among others
    *TORCHRUN, "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK",
    "JSM_NAMESPACE_RANK",
)  # fmt: skip
TASKS = (
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS_PER_NODE",
)  # fmt: skip
BATCH_ONLY = ("SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")  # SLURM sets them in batch jobs alone


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, where the locale has another encoding.

    The bytes of a file's name would be other letters there, also in the tables that lab writes in UTF-8.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    terminal = getattr(sys.stdout, "encoding", None) or "utf-8"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{terminal}:backslashreplace"}
    arguments: list[str | bytes] = [*sys.orig_argv]
    if os.path.exists("/proc/self/cmdline"):  # as they were typed: not every encoding gives back the bytes it read
        with open("/proc/self/cmdline", "rb") as file:
            arguments = [*file.read().split(b"\0")[:-1]]
    os.execv(sys.executable, [sys.executable, *arguments[1:]])


def drop_stale_ranks() -> None:
    """Make the environment say only what is true of this process, and of those that it will start.

    A shell, a container or an earlier job may leave ranks behind; a process would take itself for one of several.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # a calendar.py of the working directory is no module of a Python below this one
    if LIFELINE in os.environ or RENDEZVOUS in os.environ:  # lab started it
        return
    stale = (*(() if by_torchrun() else RANKS), *(() if by_srun() else TASKS))
    for name in stale:
        os.environ.pop(name, None)


def by_torchrun() -> bool:
    return all(os.environ.get(name) for name in TORCHRUN)


def by_srun() -> bool:
    """Whether this is one of several tasks of srun: a batch script alone is one process."""
    return all(os.environ.get(name) for name in SRUN) and env_int("SLURM_STEP_NUM_TASKS", 1) > 1


def slurm_job() -> str | None:
    """The batch job that this process is part of, as `scontrol` calls it: SLURM may start that again.

    In an interactive job (`salloc`, `srun --pty`) a person gives the commands, who may give the same one twice. SLURM
    sets `ENVIRONMENT=BATCH` for a batch script, which the tasks of its `srun` inherit; a terminal is a person's.
    """
    batch = os.environ.get("ENVIRONMENT") == "BATCH" or any(name in os.environ for name in BATCH_ONLY)
    if not batch or (sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()):
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def num_threads() -> int | None:
    """Number of threads in OMP_NUM_THREADS; the first of a list such as `4,2`; None if unset."""
    return env_int("OMP_NUM_THREADS", 0) or None


def env_int(name: str, default: int) -> int:
    """A positive number in the environment, or the first of a list of them."""
    text = os.environ.get(name, "").partition(",")[0].strip()
    return int(text) if text.isascii() and text.isdecimal() else default
