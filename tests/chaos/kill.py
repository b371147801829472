"""`make chaos`: runs are killed, stopped and broken at every point, and have to end as if nothing had happened.

    python tests/chaos/kill.py [SECTION ...]

A run here is a real `lab train` in a process of its own, forked from one that has imported everything. The last line of
a section counts what held; the exit code is 0 only if everything did.
"""

import contextlib
import hashlib
import io
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
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}

import torch
from lightning import Callback
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))
import page

from lab.data import tiny
from lab.engine import cli
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import RunError

cli.import_heavy("lab.train")
from lab import train as lab_train  # noqa: E402
from lab.engine import lock  # noqa: E402
from lab.engine.files import read_json  # noqa: E402
from lab.engine.runs import checkpoints  # noqa: E402

NUM_BATCHES, EPOCHS = 8, 4
POINTS = range(NUM_BATCHES * EPOCHS)
IMAGES = [
    "experiment=image_folder", "net=mlp", "net.widths=[16]", "net.batch_norm=true", "net.dropout=0.3",
    "data.image_size=16",
]  # fmt: skip
VARIANTS = {
    "plain": IMAGES,
    "ema": [*IMAGES, "ema=0.9"],
    "accumulate 3": [*IMAGES, "trainer.accumulate_grad_batches=3"],
    "validate twice": [*IMAGES, "trainer.val_check_interval=0.5"],
    "texts": ["experiment=language_id", "data.tiny=true", "net=gru", "net.hidden=8", "ema=0.9"],
    "translation": ["experiment=translate_tatoeba", "data.tiny=true", "net.width=16", "trainer.precision=32-true"],
}
TEXTS = {"texts": 48, "translation": 25}  # samples of a batch, so that there are NUM_BATCHES; of images 5
TMP = Path(tempfile.mkdtemp(prefix="lab-chaos-"))
PACKAGES = [str(Path(__file__).parents[1] / "contracts/fork"), str(TMP)]
LAB = str(Path(sys.executable).with_name("lab"))
Case = tuple[str, Callable[[], str | None]]


class At(Callback):
    """Do something at the start of a training batch, counted from the start of the run."""

    def __init__(self, point: int, action: Callable[[], None]) -> None:
        self.point, self.action = point, action

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch * NUM_BATCHES + batch_idx == self.point:
            self.action()
            self.point = -1


PROOFS = {  # the tasks of packages beside lab, and their samples of a batch
    "diffusion": 16, "detector": 10, "fusion": 15, "gan": 16, "distillation": 16, "regression": 30,
}  # fmt: skip


def proof(variant: str) -> list[str]:
    """The words of a task of tests/contracts, with NUM_BATCHES."""
    if variant == "regression":
        return ["experiment=house_prices", f"data.root={TMP}/houses.csv"]
    words = [f"experiment=proof_{variant}", *([] if variant == "detector" else ["data.tiny=true"])]
    return [*words, f"task.teacher={TMP}/teacher"] if variant == "distillation" else words


def overrides(folder: Path, workers: int = 0, variant: str = "plain", processes: int = 1) -> list[str]:
    if variant in PROOFS:
        return [
            *proof(variant), f"data.batch_size={PROOFS[variant] // processes}", f"run={folder}", "trainer=cpu",
            "trainer.enable_progress_bar=false", f"trainer.max_epochs={EPOCHS}", "checkpoint.every_n_steps=3",
            "trainer.log_every_n_steps=1",
        ]  # fmt: skip
    data = ["figures=false"] if variant in TEXTS else [f"data.root={TMP}/images", f"data.num_workers={workers}"]
    return [
        *VARIANTS[variant], *data, f"data.batch_size={TEXTS.get(variant, 5) // processes}", f"run={folder}",
        "trainer=cpu", "trainer.enable_progress_bar=false", f"trainer.max_epochs={EPOCHS}",
        "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=1",
    ]  # fmt: skip


def train(words: list[str], callback: Callback | None = None) -> None:
    """`lab train WORDS`, with one more callback, in this process; never returns."""
    code = 70
    try:
        log = os.open(TMP / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        if callback:
            build_before = lab_train.build_trainer

            def with_callback(*args: Any) -> Any:
                trainer = build_before(*args)
                trainer.callbacks.append(callback)
                return trainer

            lab_train.build_trainer = with_callback
        lab_train.main(compose_config("train", add_run_overrides(words)))
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def forked(words: list[str], callback: Callback | None = None) -> int:
    pid = os.fork()
    if pid == 0:
        train(words, callback)
    return pid


def ended(pid: int) -> int:
    """The exit code; 128 + the signal's number, as a shell has it."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code


def outcome(folder: Path) -> tuple[str, str]:
    """SHA-256 of weights, optimizer and averages, and the metrics table."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for child in value:
                add(child)
        else:
            digest.update(repr(value).encode())

    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        add(checkpoint.get(key))
    return digest.hexdigest(), (folder / "metrics.csv").read_text()


def uninterrupted(workers: int, variant: str) -> tuple[str, str]:
    folder = TMP / f"reference {variant}".replace(" ", "_")
    if not folder.exists():
        pid = forked(overrides(folder, workers, variant))
        assert ended(pid) == 0, (TMP / f"{pid}.log").read_text()
    return outcome(folder)


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
        for workers in (0,) if variant in TEXTS else (0, 2):
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


def distributed() -> Iterator[Case]:
    """Two processes, of which the second is killed at a batch."""
    for variant in ("plain", *TEXTS):
        for point in (1, 13):
            yield f"SIGKILL, 2 processes, {variant}, batch {point}", lambda p=point, v=variant: killed_together(p, v)


def killed_together(point: int, variant: str) -> str | None:
    folder, reference = TMP / f"ddp-{point}-{variant}", TMP / f"ddp-reference-{os.getpid()}-{variant}"
    if not reference.exists() and (code := faulty(reference, 1, "SIGKILL", -1, variant)[0].wait(150)):
        return f"not killed: exit code {code}"
    if faulty(folder, 1, "SIGKILL", point, variant)[0].wait(150) == 0:
        return "killed: exit code 0"
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
        yield f"SIGKILL, 2 processes, {variant}, batch {point}", lambda p=point, v=variant: killed_together(p, v)


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
