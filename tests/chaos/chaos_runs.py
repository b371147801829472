"""Real runs for `make chaos`: `lab train` in a process of its own, forked from one that has imported everything."""

import hashlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}

import torch
from lightning import Callback

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab.engine import cli
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides

cli.import_heavy("lab.train")
from lab import train as lab_train  # noqa: E402

NUM_BATCHES, EPOCHS = 8, 4
POINTS = range(NUM_BATCHES * EPOCHS)
IMAGES = [
    "experiment=image_folder", "net=mlp", "net.widths=[16]", "net.batch_norm=true", "net.dropout=0.3",
    "data.image_size=16",
]  # fmt: skip
GENERATORS = {
    f"generate_{task}": [
        "experiment=generate_digits",
        "data.tiny=true",
        f"task={task}",
        f"net={net}",
        "net.width=8",
        "data.image_size=8",
    ]
    for task, net in (("flow_matching", "unet"), ("vae", "vae"), ("gan", "gan"))
}
VARIANTS = {
    "plain": IMAGES,
    "ema": [*IMAGES, "ema=0.9"],
    "accumulate 3": [*IMAGES, "trainer.accumulate_grad_batches=3"],
    "validate twice": [*IMAGES, "trainer.val_check_interval=0.5"],
    "texts": ["experiment=language_id", "data.tiny=true", "net=gru", "net.hidden=8", "ema=0.9"],
    "translation": ["experiment=translate_tatoeba", "data.tiny=true", "net.width=16", "trainer.precision=32-true"],
    **GENERATORS,
}
# samples of a batch, so that there are NUM_BATCHES; of a folder of images 5
BATCH_SIZES = {"texts": 48, "translation": 25} | dict.fromkeys(GENERATORS, 16)
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
    data = ["figures=false"] if variant in BATCH_SIZES else [f"data.root={TMP}/images", f"data.num_workers={workers}"]
    return [
        *VARIANTS[variant], *data, f"data.batch_size={BATCH_SIZES.get(variant, 5) // processes}", f"run={folder}",
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
