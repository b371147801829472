"""A request to stop, by Ctrl-C or by a scheduler: finish the step, save a checkpoint, exit."""

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

VALIDATION_GRACE = 5.0  # seconds after a request in which a validation may end


class StopRequest:
    """The signal that asked this process to stop, if any.

    Attributes:
        exit_code: 128 + the number of the signal; 0: no request.
        is_fitting: whether a step may be running, which ends before the exit. Otherwise a signal exits at once.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.requested_at = 0.0
        self.is_fitting = False

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and, in a SLURM job, SIGUSR1, which SLURM sends shortly before the time limit."""
        self.exit_code, self.is_fitting, before = 0, False, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else [])):
                before[number] = signal.signal(number, self._request)
        try:
            yield
        except SystemExit as error:  # the signal may have come while data was read or the test ran
            if error.code == 128 + signal.SIGUSR1 and os.environ.get("SLURM_PROCID", "0") == "0":
                requeue()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code and number == signal.SIGINT:
            os._exit(128 + number)  # a second Ctrl-C
        if not self.exit_code:
            self.exit_code, self.requested_at = 128 + number, time.monotonic()
        if not self.is_fitting:
            raise SystemExit(self.exit_code)
        if number == signal.SIGINT:
            say("", "Stopping after this step. Press Ctrl-C again to stop at once.")

    def overdue(self) -> bool:
        """Return whether the time that a validation may take after a request has passed."""
        return bool(self.exit_code) and time.monotonic() - self.requested_at > VALIDATION_GRACE


@cache
def requeue(run: Any = subprocess.run) -> None:
    """Ask SLURM once to start this job again; the new job resumes the run in the same folder."""
    run(["scontrol", "requeue", slurm_job()], check=False)


stop_request = StopRequest()
