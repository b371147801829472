"""The jobs of a sweep as SLURM's, which are found again by their names: they go on when the sweep's process is gone."""

import contextlib
import shlex
import subprocess
from time import monotonic
from typing import Annotated

from pydantic import Field, PositiveInt

from lab.engine.display import say
from lab.engine.errors import PRUNED, UserError, fail
from lab.engine.folder import RESULTS, read_json
from lab.engine.launch.environment import COMMAND
from lab.sweep.launcher import Job, Launcher, clear, last_error, without_slurm

OWN = ("--requeue", "--open-mode=append", "--signal=SIGUSR1@90", "--export=ALL")  # warned of its end, it is requeued
LOOK, LAG = 3.0, 5.0  # seconds between two looks at the queue, and that a network's file may come late
CODES = {"finished": 0, "pruned": PRUNED}


class Slurm(Launcher):
    """How a job has ended its folder says, so that no accounting is needed.

    Args:
        num_slots: jobs at a time, waiting ones included.
        partition: these are sbatch's own options; null: the cluster's default.
        time: a job that needs longer saves, and is queued again.
        nodes: the trainer's `num_nodes`.
        ntasks_per_node: the trainer's `devices`.
        cpus_per_task: for each process.
        mem: of each node.
        gpus_per_node: the trainer's `devices`, on GPUs.
        args: more of sbatch's options.
    """

    outlived, grace, period = True, 60.0, 0.5  # SLURM itself kills what it has asked to end, by default after 30 s

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
        self.options = [*OWN, *(f"--{name}={value}" for name, value in options.items() if value is not None), *args]
        self.srun = ["srun", *([f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else [])]  # it takes no sbatch's
        self.gone: dict[int, float] = {}  # jobs that are not in the queue, and since when
        self.has_taken = self.killed = False
        self.queue: dict[str, tuple[int, str]] = {}
        if problem := self._look():
            fail([f"launcher=slurm: {problem}"])

    def _start(self, job: Job) -> None:
        self.gone.pop(job.number, None)
        job.id, _ = self.queue.get(_name(job), (0, ""))  # another sweep's process has submitted it
        if not job.id:
            clear(job.folder)
            self._submit(job)

    def _submit(self, job: Job) -> None:
        """Once SLURM has taken one, it is asked again where it refuses, such as one more than a user may have."""
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
            self.has_taken = True
        elif not self.has_taken:
            fail([f"launcher: {_last_line(result.stderr)}"])
        elif job.why != (why := _last_line(result.stderr)):
            job.why = why
            say(f"{_name(job)}: {why}; submitting again")

    def _look(self) -> str:
        """Ask what is in the queue; returns why that can't be said, and what was known stays."""
        self.looked = monotonic()
        command = ["squeue", "--me", "--noheader", "--format=%i|%T %r|%j"]
        try:
            result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "squeue was not found: SLURM is not installed on this machine"
        if result.returncode:
            return _last_line(result.stderr)
        lines = [line.split("|", 2) for line in result.stdout.splitlines()]
        self.queue = {name: (int(number), state) for number, state, name in lines if number.isdigit()}  # no arrays
        return ""

    def _exit_code(self, job: Job) -> int | None:
        if monotonic() - self.looked > LOOK:
            self._look()
            for refused in (other for other in self.running if not (other.id or self.stopping)):
                self._submit(refused)
        number, state = self.queue.get(_name(job), (0, ""))
        if not self.killed and (number or not (job.id or self.stopping)):
            job.why = state.removesuffix(" None") or job.why
            return None
        path = job.folder / RESULTS
        status = ""
        with contextlib.suppress(UserError):  # damaged: the job fails
            status = read_json(path)["status"] if path.exists() else ""
        since = self.gone.setdefault(job.number, monotonic())
        if status in CODES or self.killed or monotonic() - since > LAG:
            return CODES.get(status, 1)
        return None

    def _reason(self, job: Job, code: int) -> str:
        lines = job.said().splitlines()
        own = [line for line in lines if not line.startswith(("srun: ", "slurmstepd"))]
        if any(line.startswith(("error: ", "Traceback ")) for line in own):
            return last_error("\n".join(own))
        told = [line for line in lines if line.startswith(("srun: error: ", "slurmstepd"))]
        return "cancelled, or killed by SLURM" + (f" ({told[-1]})" if told else "")

    def _ask_to_end(self) -> None:
        self._cancel()

    def _kill(self) -> None:
        self._cancel("--signal=KILL")
        self.killed = True

    def _cancel(self, *options: str) -> None:
        if ids := [str(job.id) for job in self.running if job.id]:
            subprocess.run(["scancel", *options, *ids], capture_output=True)


def _name(job: Job) -> str:
    """Of a job in SLURM; no two folders have the same."""
    return f"{job.folder.name} {job.folder.parent.resolve()}"


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["no reason given"])[-1]
