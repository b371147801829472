import os

os.environ["OMP_NUM_THREADS"] = "1"  # several processes share the cores: one thread each, or all of them crawl

import gc
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import forked
import lightning as L
import pytest
import torch
from omegaconf import DictConfig

from lab import train
from lab.build import build_trainer
from lab.engine.config import allow
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs import check
from lab.runs.open import Run
from lab.train import prepare
from lab.verbs.export import main as export

torch.set_num_threads(1)
torch.ones(1, requires_grad=True).backward()  # a first one after torch.export would start threads that no fork survives

CONF = Path(__file__).parents[1] / "conf"
PLAIN = (
    "experiment=digits", "data.tiny=true", "data.augment=null", "ema=null", "monitor={metric: val/acc, mode: max}",
    "figures=false",
)  # fmt: skip
TINY = (  # a run of a second, on one command line
    "data.tiny=true data.augment=null ema=null early_stopping=null net=mlp net.widths=[8] scheduler=constant"
    " optimizer=adam monitor.metric=val/acc monitor.mode=max"
    " figures=false trainer=cpu trainer.max_epochs=1 trainer.enable_progress_bar=false"
)
LAB = Path(sys.executable).with_name("lab")


def options(group: str) -> list[str]:
    found = sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))
    assert found, f"conf/{group} is empty"
    return found


def takes(net: str) -> list[str]:
    """The entries of a batch that a net's `forward` takes."""
    target = compose_config("train", ["experiment=digits", f"net={net}"]).net._target_
    return [name for name in inspect.signature(allow.locate(target).forward).parameters if name != "self"]


@cache
def fitting(*choice: str) -> str:
    """`experiment=…`: digits, or the first that goes with these options of a group; one that chooses them comes first.

    A net or a task of generation fits the config of no classifier, but this is not known before it is built.
    """
    filter_warnings()

    def order(name: str) -> tuple[bool, bool]:
        text = (CONF / f"experiment/{name}.yaml").read_text()
        return f"override /{choice[0].replace('=', ': ')}\n" not in text, name != "digits"

    for name in sorted(options("experiment"), key=order):
        with suppress(UserError):
            check.check(compose_config("train", [f"experiment={name}", "trainer=cpu", f"log_dir={CONF}", *choice]))
            return f"experiment={name}"
    return "experiment=digits"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="rewrite golden.json instead of comparing with it")


def pytest_collection_finish() -> None:
    """Exempt what the imports made from garbage collection: it saves a tenth of all tests' time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries report what is left when Python ends


def restored() -> Iterator[None]:
    """Restore the environment. A test may change it, and so does a command line."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


for_modules = pytest.fixture(autouse=True, scope="module", name="for_modules")(restored)
for_tests = pytest.fixture(autouse=True, name="for_tests")(restored)


@pytest.fixture
def compose(tmp_path: Path) -> Callable[..., DictConfig]:
    """The config of a small training run on the CPU that writes below `tmp_path`."""

    def compose(*overrides: str) -> DictConfig:
        filter_warnings()
        quick = [f"log_dir={tmp_path}/logs", "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false"]
        return compose_config("train", [*quick, *overrides])

    return compose


@pytest.fixture
def trained(compose: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Path]:
    """Train as `lab train` does, and return the run's folder."""

    def trained(*overrides: str) -> Path:
        cfg = compose(*overrides)
        before = set((tmp_path / "logs").glob("*/*"))
        train.main(cfg)
        (folder,) = set((tmp_path / "logs").glob("*/*")) - before
        return folder

    return trained


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of three epochs on digits, with model.onnx. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    filter_warnings()
    words = (*PLAIN, "trainer=cpu", "trainer.max_epochs=3", "trainer.enable_progress_bar=false", f"run={folder}")
    train.main(compose_config("train", [*words, "net=mlp", "net.widths=[8]"]))
    export.main(compose_config("export", [f"run={folder}"]))
    return folder


@pytest.fixture
def digits_copy(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of `digits_run`, which a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


@pytest.fixture
def lab(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The `lab` command in an empty folder, as a user types it; `forked.py` says how it starts."""

    def lab(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return forked.run([str(LAB), *arguments], tmp_path, env or os.environ, timeout=200)

    return lab


PROOFS = Path(__file__).parent / "contracts/fork"  # packages that are installed beside lab


@pytest.fixture(scope="session")
def lab_in() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The `lab` command in a folder, with the packages of that folder, of PYTHONPATH, and the proofs."""

    def lab_in(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (str(PROOFS), str(folder), os.environ.get("PYTHONPATH"))))
        return forked.run([str(LAB), *words], folder, {**os.environ, **(env or {}), "PYTHONPATH": path}, timeout=300)

    return lab_in


class Losses(L.Callback):
    """The loss of every training step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


class Rows:
    """Training samples in memory, as a net's `init_from` takes them."""

    def __init__(self, **entries: torch.Tensor) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(next(iter(self.entries.values())))

    def __getitem__(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.entries.items()}


def step_losses(cfg: DictConfig, num: int, folder: Path) -> list[float]:
    cfg.trainer.max_steps = num
    data, task = prepare(Run(cfg))
    losses = Losses()
    trainer = build_trainer(cfg, folder)
    trainer.callbacks.append(losses)
    trainer.fit(task, data)
    shutil.rmtree(folder)
    return losses.values
