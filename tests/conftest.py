"""Fixtures for all tests. Functions import torch and Lightning: the process that hands out the tests needs neither."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # several processes share the cores: one thread each, or all of them crawl

import fcntl
import gc
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import forked
import pytest

if TYPE_CHECKING:
    from omegaconf import DictConfig

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
    from lab.engine.config import allow
    from lab.engine.config.compose import compose_config

    target = compose_config("train", ["experiment=digits", f"net={net}"]).net._target_
    return [name for name in inspect.signature(allow.locate(target).forward).parameters if name != "self"]


GENERATION = {  # a net or a task that fits no classifier, which is not known before it is built
    "unet": "generate_digits", "flow_matching": "generate_digits",
    "vae": "generate_fashion_vae", "gan": "generate_fashion_gan",
}  # fmt: skip
DETECTION = {  # the same facts as a classifier's, and other entries
    "detector": "detect", "detection": "detect", "box_files": "detect", "digit_scenes": "detect_digits",
    "torchvision_detection": "detect",
}  # fmt: skip
FIRST = ("digits", "language_id", "translate_emoji")  # one for each modality: most options go with one of them


@cache
def fitting(choice: str) -> str:
    """`experiment=…`: the first of `FIRST`, or of the others, that goes with an option of a group on tiny data."""
    from lab.engine.errors import UserError
    from lab.engine.training.lightning_quirks import filter_warnings
    from lab.runs import check
    from lab.testing.base import compose

    filter_warnings()
    if (option := choice.partition("=")[2]) in (others := GENERATION | DETECTION):
        return f"experiment={others[option]}"
    for name in sorted(options("experiment"), key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        with suppress(UserError):
            check.check(compose(f"experiment={name}", choice, "data.tiny=true"), writes=False)
            return f"experiment={name}"
    return "experiment=digits"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="rewrite golden.json instead of comparing with it")


def pytest_make_collect_report() -> None:
    """Import as `lab` does, before the first test module: the quick tests need few of the modules left out."""
    if "lightning" not in sys.modules:
        from lab.engine.training.import_quirks import light_imports

        with light_imports():
            pass


def pytest_collection_finish() -> None:
    """Use one thread, and exempt all modules from garbage collection, which saves a tenth of all tests' time."""
    import torch

    torch.set_num_threads(1)
    torch.ones(1, requires_grad=True).backward()  # after torch.export, a first one starts threads that no fork survives
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
def compose(tmp_path: Path) -> "Callable[..., DictConfig]":
    """The config of a small training run on the CPU that writes below `tmp_path`."""
    from lab.engine.config.compose import compose_config
    from lab.engine.training.lightning_quirks import filter_warnings

    def compose(*overrides: str) -> "DictConfig":
        filter_warnings()
        quick = [f"log_dir={tmp_path}/logs", "trainer=cpu", "trainer.enable_progress_bar=false", "figures=false"]
        return compose_config("train", [*quick, *overrides])

    return compose


@pytest.fixture
def trained(compose: "Callable[..., DictConfig]", tmp_path: Path) -> Callable[..., Path]:
    """Train as `lab train` does, and return the run's folder."""
    from lab import train

    def trained(*overrides: str) -> Path:
        cfg = compose(*overrides)
        before = set((tmp_path / "logs").glob("*/*"))
        train.main(cfg)
        (folder,) = set((tmp_path / "logs").glob("*/*")) - before
        return folder

    return trained


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all processes of pytest; the others wait for the first. Copy it before you change it."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "once"
    place.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], object]) -> Path:
        with open(place / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / f"{name}.made").exists():
                shutil.rmtree(place / name, ignore_errors=True)  # another process failed
                make(place / name)
                (place / f"{name}.made").touch()
        return place / name

    return once


@pytest.fixture(scope="session")
def digits_run(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A finished run that can read digits, with model.onnx. Copy it before you change it."""

    def make(folder: Path) -> None:
        from lab import train
        from lab.engine.config.compose import compose_config
        from lab.engine.training.lightning_quirks import filter_warnings
        from lab.verbs.export import main as export

        filter_warnings()
        words = (*PLAIN, "trainer=cpu", "trainer.max_epochs=8", "trainer.enable_progress_bar=false", f"run={folder}")
        train.main(compose_config("train", [*words, "net=mlp", "net.widths=[32]", "optimizer.lr=0.01"]))
        export.main(compose_config("export", [f"run={folder}"]))

    return once("digits", make)


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
