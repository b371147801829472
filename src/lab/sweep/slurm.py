"""`launcher=slurm`: the jobs are SLURM jobs. They continue without the sweep's process, and have unique names."""

import contextlib
import shlex
import subprocess
from time import monotonic
from typing import Annotated

from pydantic import Field, PositiveInt

from lab.engine.display import say
from lab.engine.errors import PRUNED, UserError, fail
from lab.engine.files import read_json
from lab.engine.folder import RESULTS
from lab.engine.launch.environment import COMMAND
from lab.sweep.launcher import Job, Launcher, clear, last_error, without_slurm

FIXED = ("--requeue", "--open-mode=append", "--signal=SIGUSR1@90", "--export=ALL")  # a job near its limit is requeued
LOOK = 3.0  # seconds between two calls of squeue
LAG = 5.0  # seconds by which a network file system may show a file late
CODES = {"finished": 0, "pruned": PRUNED}  # exit codes by status


class Slurm(Launcher):
    """Submits jobs with sbatch. The results in a job's folder tell how it ended, so SLURM accounting is not needed.

    Args:
        num_slots: the number of jobs in the queue at the same time, pending jobs included.
        partition: this and the following are options of sbatch; null: the cluster's default.
        time: the time limit. A job that needs longer saves a checkpoint and is requeued.
        nodes: as `trainer.num_nodes`.
        ntasks_per_node: as `trainer.devices`.
        cpus_per_task: cores of each process.
        mem: memory of each node.
        gpus_per_node: as `trainer.devices`, on GPUs.
        args: more options of sbatch.
    """

    jobs_survive, grace, period = True, 60.0, 0.5  # SLURM kills a cancelled job, by default after 30 s

    def __init__(
        self,
        num_slots: int,
        partition: str | None = None,
        time: str | PositiveInt | None = None,
        nodes: PositiveInt | None = None,
        ntasks_per_node: PositiveInt | None = None,
        cpus_per_task: PositiveInt | None = None,
        mem: str | PositiveInt | None = None,
        gpus_per_node: str | PositiveInt | None = None,
        args: list[Annotated[str, Field(pattern="^-")]] = [],  # noqa: B006
    ) -> None:
        super().__init__(num_slots)
        options = {
            "partition": partition, "time": time, "nodes": nodes, "ntasks-per-node": ntasks_per_node,
            "cpus-per-task": cpus_per_task, "mem": mem, "gpus-per-node": gpus_per_node,
        }  # fmt: skip
        self.options = [*FIXED, *(f"--{name}={value}" for name, value in options.items() if value is not None), *args]
        self.srun = ["srun", *([f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else [])]  # srun ignores sbatch's
        self.gone: dict[int, float] = {}  # job number -> when the job was first missing in the queue
        self.has_submitted = self.killed = False
        self.queue: dict[str, tuple[int, str]] = {}
        if problem := self._look():
            fail([f"launcher=slurm: {problem}"])

    def _start(self, job: Job) -> None:
        self.gone.pop(job.number, None)
        job.id, _ = self.queue.get(_name(job), (0, ""))  # an earlier start of the sweep has submitted it
        if not job.id:
            clear(job.folder)
            self._submit(job)

    def _submit(self, job: Job) -> None:
        """Submit a job. If SLURM refuses it, as beyond the limit of jobs per user, it is submitted again later.

        Raises:
            UserError: SLURM refuses the first job: its options are probably wrong.
        """
        script = shlex.join([*self.srun, *COMMAND, "train", *job.words])
        names = [f"--job-name={_name(job)}", f"--output={str(job.log.absolute()).replace('%', '%%')}"]
        result = subprocess.run(
            ["sbatch", "--parsable", *self.options, *names],
            input=f"#!/bin/bash\n{script}\n", env=without_slurm() | job.environ, capture_output=True, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        if result.returncode == 0:
            job.id = int(result.stdout.partition(";")[0])
            self.queue[_name(job)] = job.id, "PENDING"
            self.has_submitted = True
        elif not self.has_submitted:
            fail([f"launcher: sbatch refused the first job: {_last_line(result.stderr)}"])
        elif job.reason != (reason := _last_line(result.stderr)):
            job.reason = reason
            say(f"{_name(job)}: {reason}; submitting again")

    def _look(self) -> str:
        """Update the queue. Return an error message, or "": after an error the queue stays as it was."""
        self.looked = monotonic()
        command = ["squeue", "--me", "--noheader", "--format=%i|%T %r|%j"]
        try:
            result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "squeue was not found: SLURM is not installed on this machine"
        if result.returncode:
            return _last_line(result.stderr)
        lines = [line.split("|", 2) for line in result.stdout.splitlines()]
        self.queue = {name: (int(id), state) for id, state, name in lines if id.isdigit()}  # without job arrays
        return ""

    def _exit_code(self, job: Job) -> int | None:
        if monotonic() - self.looked > LOOK:
            self._look()
            for refused in (other for other in self.running if not (other.id or self.stopping)):
                self._submit(refused)
        number, state = self.queue.get(_name(job), (0, ""))
        if not self.killed and (number or not (job.id or self.stopping)):
            job.reason = state.removesuffix(" None") or job.reason
            return None
        path = job.folder / RESULTS
        status = ""
        with contextlib.suppress(UserError):  # damaged results: the job has failed
            status = read_json(path)["status"] if path.exists() else ""
        since = self.gone.setdefault(job.number, monotonic())
        if status in CODES or self.killed or monotonic() - since > LAG:
            return CODES.get(status, 1)
        return None

    def _failure(self, job: Job, code: int) -> str:
        lines = job.output().splitlines()
        of_job = [line for line in lines if not line.startswith(("srun: ", "slurmstepd"))]
        if any(line.startswith(("error: ", "Traceback ")) for line in of_job):
            return last_error("\n".join(of_job))
        of_slurm = [line for line in lines if line.startswith(("srun: error: ", "slurmstepd"))]
        return "cancelled, or killed by SLURM" + (f" ({of_slurm[-1]})" if of_slurm else "")

    def _ask_to_end(self) -> None:
        self._cancel()

    def _kill(self) -> None:
        self._cancel("--signal=KILL")
        self.killed = True

    def _cancel(self, *options: str) -> None:
        if ids := [str(job.id) for job in self.running if job.id]:
            subprocess.run(["scancel", *options, *ids], capture_output=True)


def _name(job: Job) -> str:
    """The name of a job in SLURM. It contains the folder, so it is unique."""
    return f"{job.folder.name} {job.folder.parent.resolve()}"


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no reason given"])[-1]
