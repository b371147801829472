"""Asked to stop, by Ctrl-C or by a scheduler: the step is finished first, then a checkpoint, then the exit."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from lab.engine.display import say
from lab.engine.launch.environment import slurm_job

PATIENCE = 5.0  # seconds that a validation may still take


class Stop:
    """Whether this process has been asked to stop, and with which exit code."""

    def __init__(self) -> None:
        self.code = 0  # of the exit that was asked for; 0: none
        self.since = 0.0
        self.fitting = False  # a step may be under way

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take over SIGINT, SIGTERM and, in a SLURM job, SIGUSR1: its warning that the job's time is nearly up."""
        self.code, self.fitting, before = 0, False, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else [])):
                before[number] = signal.signal(number, self._asked)
        try:
            yield
        except SystemExit as error:  # it may have been reading its data, or testing
            if error.code == 128 + signal.SIGUSR1 and os.environ.get("SLURM_PROCID", "0") == "0":
                requeue()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.code and number == signal.SIGINT:
            os._exit(128 + number)  # asked a second time: at once
        if not self.code:
            self.code, self.since = 128 + number, time.monotonic()
        if not self.fitting:
            raise SystemExit(self.code)
        if number == signal.SIGINT:
            say("", "Stopping after this step. Press Ctrl-C again to stop at once.")

    def overdue(self) -> bool:
        return bool(self.code) and time.monotonic() - self.since > PATIENCE


@cache
def requeue(run: Any = subprocess.run) -> None:
    """Have SLURM start this job again, once; it will go on in its folder."""
    run(["scontrol", "requeue", slurm_job()], check=False)


stop = Stop()
