"""`make chaos`: runs of two processes, one of which is killed or breaks."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos_runs import BATCH_SIZES, GENERATORS, LAB, PACKAGES, POINTS, TMP, Case, outcome, overrides

from lab.engine.runs import checkpoints


def distributed() -> Iterator[Case]:
    """Two processes, of which the second is killed at a batch; generators are killed, and resumed, eight times."""
    for variant in ("plain", *BATCH_SIZES):
        for points in [POINTS[1::4]] if variant in GENERATORS else ((1,), (13,)):
            yield (
                f"SIGKILL, 2 processes, {variant}, batch {', '.join(map(str, points))}",
                lambda p=points, v=variant: killed_together(p, v),
            )


def killed_together(points: Sequence[int], variant: str) -> str | None:
    folder, reference = TMP / f"ddp-{points[0]}-{variant}", TMP / f"ddp-reference-{os.getpid()}-{variant}"
    if not reference.exists() and (code := faulty(reference, 1, "SIGKILL", -1, variant)[0].wait(150)):
        return f"not killed: exit code {code}"
    for point in points:
        if faulty(folder, 1, "SIGKILL", point, variant)[0].wait(150) == 0:
            return f"killed at batch {point}: exit code 0"
    if code := faulty(folder, 1, "SIGKILL", -1, variant)[0].wait(150):
        return f"resumed: exit code {code}"
    for what, one, other in zip(("weights", "metrics"), outcome(folder), outcome(reference), strict=True):
        if one != other:
            return f"other {what}"
    return None


FAULTS = {
    "raise": "raise RuntimeError('a fault')",
    "exit": "os._exit(3)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGSTOP": "os.kill(os.getpid(), signal.SIGSTOP)",
}


def ranks() -> Iterator[Case]:
    for rank in (0, 1):
        for fault in FAULTS:
            yield f"process {rank}: {fault}", lambda r=rank, f=fault: broken_rank(r, f)


def faulty(
    folder: Path, rank: int, fault: str, point: int, variant: str = "plain"
) -> tuple[subprocess.Popen[bytes], Path]:
    """`lab train` in two processes, one of which breaks before a step; and a folder with its `log`, and when: `at`."""
    code = Path(tempfile.mkdtemp(dir=TMP))
    (code / "faults.py").write_text(
        "import os, signal, time\nfrom lightning import Callback\n\nclass Fault(Callback):\n"
        "    def on_train_batch_start(self, trainer, task, batch, batch_idx):\n"
        f"        if trainer.global_step == {point} and trainer.global_rank == {rank}:\n"
        f"            open({str(code / 'at')!r}, 'w').write(str(time.time()))\n"
        f"            {FAULTS[fault]}\n"
    )
    (code / "sitecustomize.py").write_text("from lab.engine.config import allow\nallow.MODULES += ('faults',)\n")
    words = [
        *overrides(folder, variant=variant, processes=2),
        "trainer=ddp_cpu",
        "+callbacks.fault={_target_: faults.Fault}",
    ]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(code), *PACKAGES, os.environ.get("PYTHONPATH", "")])}
    with open(code / "log", "w") as log:
        command = [LAB, "train", *words]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True), code


def broken_rank(rank: int, fault: str) -> str | None:
    """One process of a run of two breaks: all have to end, in time, not as a success, and with none left."""
    folder = TMP / f"rank-{rank}-{fault}"
    process, code = faulty(folder, rank, fault, 5)
    try:
        exit_code = process.wait(150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "it hangs"
    seconds = time.time() - float((code / "at").read_text())
    patience = time.time() + 10
    while (left := processes_of(folder)) and time.time() < patience:
        time.sleep(0.2)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    if exit_code == 0:
        return "exit code 0"
    if fault == "SIGTERM" and exit_code != 143:
        return f"exit code {exit_code}: {(code / 'log').read_text()[-600:]}"
    if seconds > (60 if fault == "SIGSTOP" else 30):
        return f"it took {seconds:.0f} s"
    if left:
        return f"left behind: {left}"
    checkpoints.read(folder / "last.ckpt")
    return None


def processes_of(folder: Path) -> list[str]:
    """The processes with a folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder) in path.read_text():
                found.append(path.parent.name)
    return found
