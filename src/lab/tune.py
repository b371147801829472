"""`lab tune`: a learning rate or a batch size to begin with. What is trained for it is thrown away."""

import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, PositiveFloat, PositiveInt

from lab import cli, run
from lab.check import check, wrong_arguments
from lab.config import fail, freeze, quiet
from lab.errors import RunError
from lab.external import refuse_several
from lab.stop import stop
from lab.tuning.finders import Trial, find_batch_size, find_lr, too_large


@dataclass
class Settings:
    """The keys of conf/tune.yaml that conf/train.yaml has not."""

    find: Literal["lr", "batch_size"]
    lr: Any
    batch_size: Any
    memory_gb: PositiveFloat | None


@dataclass
class Rates:
    min: PositiveFloat
    max: PositiveFloat
    steps: Annotated[int, Field(ge=20)]


@dataclass
class Sizes:
    min: PositiveInt
    max: PositiveInt
    steps: Annotated[int, Field(ge=2)]


@stop.listen()
def main(cfg: DictConfig) -> None:
    """Check the config, search, say what to paste, and leave a picture and a table."""
    quiet()
    refuse_several("tune", "it")
    freeze(cfg)
    own = _settings(cfg)
    check(cfg)
    if own.find == "lr":
        _lr(cfg, own)
    else:
        _batch_size(cfg, own)


def _settings(cfg: DictConfig) -> DictConfig:
    """What is tune's own, taken out of the config, which is then one for `lab train`."""
    OmegaConf.set_struct(cfg, False)
    own = OmegaConf.create({key: cfg.pop(key) for key in Settings.__dataclass_fields__})
    OmegaConf.set_struct(cfg, True)
    cfg.sweep = None
    plain: Any = OmegaConf.to_container(own)
    problems = [
        *wrong_arguments("", Settings, plain),
        *wrong_arguments("lr", Rates, plain["lr"]),
        *wrong_arguments("batch_size", Sizes, plain["batch_size"]),
    ]
    if not problems:
        problems = [f"{key}.min={own[key].min}: not below {key}.max={own[key].max}" for key in ("lr", "batch_size")
                    if own[key].min >= own[key].max]  # fmt: skip
    if cfg.run is not None:
        problems.append(f"run={cfg.run}: tune makes no run; leave it out")
    if "lr" not in cfg.optimizer:
        problems.append("optimizer.lr: the optimizer has none")
    if find_spec("matplotlib") is None:
        problems.append("matplotlib draws the picture, and is not installed: pip install 'lab[sweep]'")
    if problems:
        fail(problems)
    return own


def _lr(cfg: DictConfig, own: DictConfig) -> None:
    from lab.tuning import curves

    points: list[tuple[float, float]] = []
    if _search(find_lr, cfg, own, points.append):
        raise too_large(cfg.data.batch_size)
    lrs, losses = map(list, zip(*points, strict=True))
    suggestion = curves.steepest(lrs, losses)
    folder = run.unused(Path(cfg.log_dir) / cfg.name / "tune")
    curves.write(folder / "lr.csv", ("lr", "loss", "smooth"), [*zip(lrs, losses, curves.smooth(losses), strict=True)])
    curves.draw_lr(folder / "lr.png", lrs, losses, suggestion, cfg.optimizer.lr)
    print(f"optimizer.lr={suggestion:.2g}  where the loss falls fastest; now it is {cfg.optimizer.lr:g}")
    print(f"{folder}: lr.png, lr.csv")


def _batch_size(cfg: DictConfig, own: DictConfig) -> None:
    from lab.tuning import curves

    trials: list[Trial] = []
    print(f"{'batch size':>10}  {'samples/s':>9}  {'peak GB':>8}")

    def tell(trial: Trial) -> None:
        trials.append(trial)
        values = f"{trial.speed:>9.0f}  {trial.gigabytes:>8.2f}" if trial.fits else "out of memory"
        print(f"{trial.batch_size:>10}  {values}", flush=True)

    died = _search(find_batch_size, cfg, own, tell)
    fits = [trial for trial in trials if trial.fits]
    if not fits:
        raise too_large(own.batch_size.min)
    largest, fastest = max(fits, key=lambda trial: trial.batch_size), max(fits, key=lambda trial: trial.speed)
    folder = run.unused(Path(cfg.log_dir) / cfg.name / "tune")
    rows = [(t.batch_size, round(t.speed), round(t.gigabytes, 3)) if t.fits else (t.batch_size, "", "") for t in trials]
    curves.write(folder / "batch_size.csv", ("batch_size", "samples_per_second", "peak_gb"), rows)
    curves.draw_sizes(folder / "batch_size.png", trials, largest, fastest)
    if died:
        why = f"the largest that fitted before the search was killed by {died}"
    elif len(fits) < len(trials):
        why = "the largest that fits"
    elif largest.batch_size * 2 > own.batch_size.max:
        why = f"the largest tried; batch_size.max is {own.batch_size.max}"
    else:
        why = "the largest tried; twice that is more than there are training samples"
    print(f"data.batch_size={largest.batch_size}  {why}")
    print(f"data.batch_size={fastest.batch_size}  the fastest, {fastest.speed:.0f} samples/s")
    print(f"{folder}: batch_size.png, batch_size.csv")


def _search(
    find: Callable[..., None], cfg: DictConfig, own: DictConfig, tell: Callable[[Any], object]
) -> str:
    """Search in a process of its own, for one that runs out of memory may be killed, or crash inside a library.

    Returns:
        The signal that killed it, if one did.
    """
    ours, theirs = get_context("fork").Pipe(duplex=False)

    def work() -> None:
        ours.close()
        sys.exit(cli.exit_code(lambda: find(cfg, own, theirs.send)))

    process = get_context("fork").Process(target=work)
    process.start()
    theirs.close()
    try:
        with contextlib.suppress(EOFError):
            while True:
                tell(ours.recv())
        process.join()
    finally:
        process.kill()
    code = process.exitcode or 0
    if code > 0:
        sys.exit(code)
    return signal.Signals(-code).name if code else ""
