"""`make chaos`: runs are killed, stopped and broken at every point, and have to end as if nothing had happened.

    python tests/chaos/kill.py [SECTION ...]

A run here is a real `lab train` in a process of its own, forked from one that has imported everything. The last line of
a section counts what held; the exit code is 0 only if everything did.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}  # before torch is imported

import torch
from chaos_runs import (
    BATCH_SIZES,
    PACKAGES,
    POINTS,
    PROOFS,
    TMP,
    VARIANTS,
    At,
    Case,
    ended,
    forked,
    outcome,
    overrides,
    uninterrupted,
)
from damage import damages, full_disk, saves
from omegaconf import OmegaConf
from ranks import distributed, killed_together, ranks

from lab.data import tiny
from lab.engine.files import read_json


def interrupted(number: int, point: int, workers: int, variant: str) -> str | None:
    """Stop a run at a point, go on with it, and say what is not as it should be."""
    folder = TMP / f"{number}-{point}-{workers}-{variant}".replace(" ", "_")
    sent = TMP / f"{folder.name}.sent"

    def stop() -> None:
        sent.write_text(str(time.time()))
        os.kill(os.getpid(), number)

    pid = forked(overrides(folder, workers, variant), At(point, stop))
    code = ended(pid)
    if code != 128 + number:
        return f"exit code {code}: {(TMP / f'{pid}.log').read_text()[-600:]}"
    if (seconds := time.time() - float(sent.read_text())) > 10:
        return f"ended after {seconds:.0f} s"
    pid = forked(overrides(folder, workers, variant))
    if code := ended(pid):
        return f"resumed: exit code {code}: {(TMP / f'{pid}.log').read_text()[-600:]}"
    weights, metrics = outcome(folder)
    expected_weights, expected_metrics = uninterrupted(workers, variant)
    if weights != expected_weights:
        return "other weights"
    if metrics != expected_metrics:
        return "other metrics"
    if list(folder.glob(".*.tmp")):
        return "leftovers"
    shutil.rmtree(folder)
    return None


def killed() -> Iterator[Case]:
    for variant in VARIANTS:
        for workers in (0,) if variant in BATCH_SIZES else (0, 2):
            for point in POINTS[:: 4 if workers or variant != "plain" else 1]:
                yield (
                    f"SIGKILL, {variant}, {workers} workers, batch {point}",
                    lambda p=point, w=workers, v=variant: interrupted(signal.SIGKILL, p, w, v),
                )


def stopped() -> Iterator[Case]:
    for number in (signal.SIGTERM, signal.SIGINT):
        for point in POINTS[::2]:
            variant = list(VARIANTS)[point // 2 % len(VARIANTS)]
            yield (
                f"{number.name}, {variant}, batch {point}",
                lambda n=number, p=point, v=variant: interrupted(n, p, 0, v),
            )


def instants() -> Iterator[Case]:
    """Runs of an epoch, killed at random times between the first byte that they write and the epoch's end."""
    for number in range(100):
        yield f"SIGKILL at a random instant, {number}", lambda n=number: killed_at_an_instant(n)


def one_epoch(folder: Path) -> list[str]:
    return [*overrides(folder), "trainer.max_epochs=1"]


def killed_at_an_instant(number: int) -> str | None:
    """Kill a run, give the same command again, and compare with a run that was not killed."""
    reference, folder = TMP / f"instant-reference-{os.getpid()}", TMP / f"instant-{number}"
    if not reference.exists() and (code := ended(forked(one_epoch(reference)))):
        return f"not killed: exit code {code}"
    seconds = json.loads((reference / "results.json").read_text())["seconds"]["total"]
    pid, since = forked(one_epoch(folder)), time.monotonic()
    while not folder.exists() and time.monotonic() - since < 60:
        time.sleep(0.001)
    time.sleep(random.Random(number).uniform(0, seconds))
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    left = sorted(path.name for path in folder.iterdir())
    pid = forked(one_epoch(folder))
    if code := ended(pid):
        return f"killed with {left}; the same command: exit code {code}: {(TMP / f'{pid}.log').read_text()[-600:]}"
    names = ("weights", "metrics", "best weights", *REPORTED)
    for what, one, other in zip(names, ended_with(folder), ended_with(reference), strict=True):
        if one != other:
            return f"killed with {left}: other {what}"
    shutil.rmtree(folder)
    return None


REPORTED = ("status", "best", "test", "last", "parameters")  # in results.json; the seconds are each run's own


def ended_with(folder: Path) -> tuple[Any, ...]:
    """Return `outcome`, the SHA-256 of the best weights, and the reported results."""
    best = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    digest = hashlib.sha256(b"".join(name.encode() + best[name].numpy().tobytes() for name in sorted(best)))
    results = json.loads((folder / "results.json").read_text())
    return *outcome(folder), digest.hexdigest(), *(results.get(key) for key in REPORTED)


MOVES: dict[str, Callable[[Path], Path]] = {
    "renamed": lambda folder: folder.rename(f"{folder} (1)"),
    "moved": lambda folder: folder.rename(Path(tempfile.mkdtemp(dir=TMP)) / "a=b"),
    "copied": lambda folder: Path(shutil.copytree(folder, f"{folder}-copy")),
    "on another mount": lambda folder: Path(shutil.move(folder, tempfile.mkdtemp(dir="/dev/shm"))),
}


def moved() -> Iterator[Case]:
    for number, (point, how) in enumerate(product(POINTS[3::6], MOVES)):
        variant = list(VARIANTS)[number % len(VARIANTS)]
        yield f"{how}, {variant}, batch {point}", lambda p=point, h=how, v=variant: resumed_elsewhere(p, h, v)


def resumed_elsewhere(point: int, how: str, variant: str) -> str | None:
    """Kill a run, move its folder, and resume it there by its folder alone."""
    old = TMP / f"{how}-{point}-{variant}".replace(" ", "_")
    ended(forked(overrides(old, 0, variant), At(point, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    folder = MOVES[how](old)
    pid = forked([f"run={folder}"])
    if code := ended(pid):
        return f"resumed: exit code {code}: {(TMP / f'{pid}.log').read_text()[-600:]}"
    expected = uninterrupted(0, variant)
    reference = TMP / f"reference {variant}".replace(" ", "_")
    if outcome(folder) != expected:
        return "other weights or metrics"
    best, best_reference = (read_json(path / "results.json", "best")["best"] for path in (folder, reference))
    shutil.rmtree(folder)
    return None if best == best_reference else f"best: {best}, not {best_reference}"


def at_once() -> Iterator[Case]:
    yield "20 runs started at once", twenty


def twenty() -> str | None:
    words = [f"log_dir={TMP}/many" if word.startswith("run=") else word for word in overrides(TMP)]
    pids = [forked([*words, "trainer.max_epochs=1", f"seed={seed}"]) for seed in range(20)]
    codes = [ended(pid) for pid in pids]
    folders = list((TMP / "many").glob("*/*"))
    seeds = {OmegaConf.load(folder / "config.yaml").seed for folder in folders}
    results = [json.loads((folder / "results.json").read_text())["status"] for folder in folders]
    same = all((folder / "last.ckpt").exists() for folder in folders) and set(results) == {"finished"}
    return None if len(folders) == 20 and len(seeds) == 20 and same and not any(codes) else f"{len(folders)}: {codes}"


def proofs() -> Iterator[Case]:
    """The tasks of tests/contracts, killed at three batches, in one process and in two; only by its name."""
    import page  # chaos_runs puts tests/ on the path

    page.install(TMP)
    subprocess.run([sys.executable, "make_houses.py"], cwd=TMP, check=True)
    sys.path[:0] = PACKAGES
    teacher = ["experiment=digits", "net=mlp", "net.widths=[32]", "data.image_size=8", "data.tiny=true", "ema=null"]
    quick = ["data.augment=null", "trainer.max_epochs=2", f"run={TMP}/teacher", "trainer=cpu", "figures=false"]
    assert ended(forked([*teacher, *quick, "trainer.enable_progress_bar=false"])) == 0
    for variant in PROOFS:
        uninterrupted(0, variant)
    for variant, point in product(PROOFS, (1, 13, 30)):
        yield f"SIGKILL, {variant}, batch {point}", lambda p=point, v=variant: interrupted(signal.SIGKILL, p, 0, v)
    for variant, point in product(PROOFS, (1, 13, 30)):
        yield f"SIGKILL, 2 processes, {variant}, batch {point}", lambda p=point, v=variant: killed_together((p,), v)


SECTIONS = {
    "killed": killed, "instants": instants, "moved": moved, "stopped": stopped, "distributed": distributed,
    "ranks": ranks, "saves": saves, "damages": damages, "full disk": full_disk, "at once": at_once,
    "proofs": proofs,
}  # fmt: skip


CASES: list[Case] = []


def case(number: int) -> str | None:
    return CASES[number][1]()


def progress(name: str, problems: Iterable[str | None], total: int) -> Iterator[str | None]:
    """The same problems, with a line about them twice a minute: a log shows no progress bar."""
    start = shown = time.monotonic()
    for done, problem in enumerate(problems, 1):
        yield problem
        if (now := time.monotonic()) - shown > 30:
            shown, left = now, (now - start) / done * (total - done)
            print(f"{name}: {done} of {total} done, {now - start:.0f} s, about {left:.0f} s left", flush=True)


def main() -> None:
    shutil.copytree(tiny.image_folder(), TMP / "images")
    for variant in VARIANTS:
        uninterrupted(0, variant)
    failed = 0
    for name in sys.argv[1:] or [name for name in SECTIONS if name != "proofs"]:
        CASES[:] = cases = list(SECTIONS[name]())
        bad, start = 0, time.monotonic()
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            for done, problem in enumerate(progress(name, pool.map(case, range(len(cases))), len(cases))):
                if problem:
                    bad += 1
                    print(f"{cases[done][0]}: {problem}", flush=True)
        failed += bad
        print(f"{name}: {len(cases) - bad} of {len(cases)}, {time.monotonic() - start:.0f} s", flush=True)
    shutil.rmtree(TMP)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
