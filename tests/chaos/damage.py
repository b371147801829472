"""`make chaos`: saves that are killed, checkpoints that are damaged, and disks that are full."""

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from chaos_runs import TMP, At, Case, ended, forked, lab_train, overrides

from lab.engine import lock
from lab.engine.errors import RunError
from lab.engine.runs import checkpoints


def saves() -> Iterator[Case]:
    for number in range(100):
        yield f"SIGKILL in a save, {number}", lambda n=number: killed_save(n)


def killed_save(number: int) -> str | None:
    """Kill a process that does nothing but save; the temporary folder is on another file system."""
    folder = TMP / f"save-{number}"
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        os.environ["TMPDIR"] = "/dev/shm"
        content = {"weights": torch.zeros(2_000_000)}
        while True:
            checkpoints.CheckpointIO().save_checkpoint(content, folder / "last.ckpt")
    time.sleep(random.Random(number).uniform(0.02, 0.3))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with lock.locked(folder):
        left = {path.name for path in folder.iterdir()} - {"last.ckpt", "previous.ckpt", ".lock"}
    problem = f"leftovers {left}" if left else None
    if list(folder.glob("*.ckpt")):
        checkpoints.read(checkpoints.newest(folder))  # raises
    shutil.rmtree(folder)
    return problem


def damages() -> Iterator[Case]:
    source = TMP / "reference_ema/last.ckpt"
    size = source.stat().st_size
    random_places = random.Random(0)
    cuts = [0, 1, *(size * i // 20 for i in range(1, 20)), size - 1]
    for cut in cuts:
        yield f"cut to {cut} bytes", lambda c=cut: damaged(source, lambda data: data[:c])
    for _ in range(100):
        bit = random_places.randrange(8 * size)
        yield f"bit {bit} flipped", lambda b=bit: damaged(source, lambda data: flip(data, b))


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damaged(source: Path, damage: Callable[[bytes], bytes]) -> str | None:
    folder = Path(tempfile.mkdtemp(dir=TMP))
    shutil.copy(source, folder / "previous.ckpt")
    (folder / "last.ckpt").write_bytes(damage(source.read_bytes()))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        found = checkpoints.newest(folder)
    shutil.rmtree(folder)
    if found is None or found.name != "previous.ckpt":
        return "not noticed"
    return None if len(said.getvalue().splitlines()) == 1 else f"said {said.getvalue()!r}"


def full_disk() -> Iterator[Case]:
    yield "a save on a full disk", lambda: on_a_small_disk(save_on_a_full_disk)
    yield "logs on a full disk", lambda: on_a_small_disk(logs_on_a_full_disk)


def on_a_small_disk(check: Callable[[Path], str | None]) -> str | None:
    folder = Path(tempfile.mkdtemp(dir=TMP))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        return check(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def save_on_a_full_disk(folder: Path) -> str | None:
    save = checkpoints.CheckpointIO().save_checkpoint
    save({"weights": torch.zeros(1_200_000)}, folder / "last.ckpt")
    try:
        save({"weights": torch.ones(1_200_000)}, folder / "last.ckpt")
        return "it was not full"
    except RunError as error:
        if "MiB are free" not in str(error) or "\n" in str(error):
            return str(error)
    left = sorted(path.name for path in folder.iterdir())
    whole = checkpoints.read(folder / "last.ckpt")["weights"].sum() == 0
    return None if whole and left == ["last.ckpt"] else f"left: {left}"


def logs_on_a_full_disk(folder: Path) -> str | None:
    """The run's loggers write to the full disk, its checkpoints elsewhere."""
    build_before = lab_train.build_trainer

    def elsewhere(cfg: Any, run_folder: Path, *args: Any) -> Any:
        trainer = build_before(cfg, run_folder, *args)
        for logger in trainer.loggers:
            logger.path = logger._root_dir = folder / "metrics.csv"
        return trainer

    def fill() -> None:
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)

    lab_train.build_trainer = elsewhere
    try:
        pid = forked(overrides(TMP / "full-disk"), At(9, fill))
        code, log = ended(pid), (TMP / f"{pid}.log").read_text()
    finally:
        lab_train.build_trainer = build_before
    if code:
        return f"exit code {code}: {log[-600:]}"
    said = log.count("can't write")
    return None if said in (1, 2) else f"said {said} times that it can't write"
