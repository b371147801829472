"""`lab tune`: a learning rate or a batch size to begin with. What is trained for it is thrown away."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import Field, PositiveFloat, PositiveInt

from lab import runs
from lab.engine import cli
from lab.engine.config.compose import freeze
from lab.engine.config.settings import wrong_settings
from lab.engine.display import say
from lab.engine.errors import RunError, fail
from lab.engine.launch.rendezvous import refuse_multiple_processes
from lab.engine.launch.signals import stop_request
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs.check import check
from lab.tasks.optimizers import by_key
from lab.verbs.tune import curves, memory
from lab.verbs.tune.finders import Trial, find_lr, try_size

NEAR = 0.05  # how close to the largest batch that fits, as a share of it
OUT = 77  # the exit code of a process that memory ran out for


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


@dataclass
class Settings:
    """The types of the keys of conf/tune.yaml; the other keys of its config are those of conf/train.yaml."""

    find: Literal["lr", "batch_size"]
    lr: Rates
    batch_size: Sizes
    memory_gb: PositiveFloat | None


@stop_request.handle_signals()
def main(cfg: DictConfig) -> None:
    """Check the config, search, say what to paste, and leave a picture and a table."""
    filter_warnings()
    refuse_multiple_processes("tune", "it")
    freeze(cfg)
    own = _settings(cfg)
    check(cfg)
    if own.find == "lr":
        _lr(cfg, own)
    else:
        _batch_size(cfg, own)


def _settings(cfg: DictConfig) -> DictConfig:
    """Move the keys of conf/tune.yaml out of the config, which is then one for `lab train`."""
    OmegaConf.set_struct(cfg, False)
    own = OmegaConf.create({key: cfg.pop(key) for key in Settings.__dataclass_fields__})
    OmegaConf.set_struct(cfg, True)
    problems = list(wrong_settings("tune", own, Settings))
    if not problems:
        problems = [
            f"{key}.min={own[key].min}: expected less than {key}.max={own[key].max}"
            for key in ("lr", "batch_size")
            if own[key].min >= own[key].max
        ]
    if cfg.run is not None:
        problems.append(f"run={cfg.run}: tune makes no run; remove run=")
    problems += [
        f"{key}.lr: this optimizer has no learning rate to tune"
        for key, node in by_key("optimizer", cfg.optimizer).items() if "lr" not in node
    ]  # fmt: skip
    if problems:
        fail(problems)
    return own


def _lr(cfg: DictConfig, own: DictConfig) -> None:
    points, is_out = _apart(find_lr, cfg, own)
    if is_out:
        raise _too_large(cfg.data.batch_size)
    lrs, losses = curves.by_step(points)
    suggestion = curves.suggest(lrs, losses)
    rates = {key: node.lr for key, node in by_key("optimizer", cfg.optimizer).items()}
    first = next(iter(rates.values()))
    folder = runs.new_folder(Path(cfg.log_dir) / cfg.name / "tune")
    curves.write(folder / "lr.csv", ("lr", "loss", "smooth"), [*zip(lrs, losses, curves.smooth(losses), strict=True)])
    curves.draw_lr(folder / "lr.png", lrs, losses, suggestion, first)
    for key, rate in rates.items():
        found = suggestion * rate / first
        say(f"{key}.lr={found:.2g}  (between the loss's steepest fall and its minimum; now {rate:g})")
    say(f"{folder}: lr.png, lr.csv")


def _batch_size(cfg: DictConfig, own: DictConfig) -> None:
    say(f"{'batch size':>10}  {'samples/s':>9}  {'peak GB':>8}")
    trials, out, why = _sizes(cfg, own)
    if not trials:
        raise _too_large(own.batch_size.min)
    largest, fastest = trials[-1], max(trials, key=lambda trial: trial.speed)
    folder = runs.new_folder(Path(cfg.log_dir) / cfg.name / "tune")
    rows = [(trial.batch_size, round(trial.speed), round(trial.gigabytes, 3)) for trial in trials]
    curves.write(folder / "batch_size.csv", ("batch_size", "samples_per_second", "peak_gb"), rows)
    curves.draw_sizes(folder / "batch_size.png", trials, largest, fastest, out)
    say(f"data.batch_size={largest.batch_size}  {why}")
    say(f"data.batch_size={fastest.batch_size}  the fastest, {fastest.speed:.0f} samples/s")
    say(f"{folder}: batch_size.png, batch_size.csv")


def _sizes(cfg: DictConfig, own: DictConfig) -> tuple[list[Trial], int | None, str]:
    """Double the batch size until it does not fit, then halve the interval until that is a twentieth of it.

    Returns:
        The trials that fit, by size; the least size that does not; and why there is none larger.
    """
    trials: list[Trial] = []
    size, out = own.batch_size.min, None
    while True:
        cfg.data.batch_size = size
        found, is_out = _apart(try_size, cfg, own)
        trials += found
        if is_out:
            out = size
            say(f"{size:>10}  out of memory")
        else:
            say(f"{found[0].batch_size:>10}  {found[0].speed:>9.0f}  {found[0].gigabytes:>8.2f}")
            if found[0].batch_size < size or size == own.batch_size.max:
                limit = "all training samples there are" if found[0].batch_size < size else "batch_size.max"
                return trials, out, f"it fits, and is {limit}"
        fits = trials[-1].batch_size if trials else 0
        if out is None:
            size = min(2 * size, own.batch_size.max)
        elif not fits or out - fits <= max(1, NEAR * fits):
            return trials, out, f"the largest that fits, to {NEAR:.0%}; {out} does not"
        else:
            size = (fits + out) // 2


def _too_large(batch_size: int) -> RunError:
    return RunError(f"error: data.batch_size={batch_size}: out of memory. find=batch_size finds the largest that fits.")


def _apart(find: Callable[..., None], cfg: DictConfig, own: DictConfig) -> tuple[list[Any], bool]:
    """Have a process of its own do it, for one that runs out of memory may be killed, or crash inside a library.

    Returns:
        What it told, and whether it ran out of memory.
    """
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def guarded() -> None:
        try:
            find(cfg, own, theirs.send)
        except Exception as error:
            if not memory.is_out(error):
                raise
            sys.exit(OUT)

    process = context.Process(target=lambda: sys.exit(cli.exit_code(guarded)))
    process.start()
    theirs.close()
    told: list[Any] = []
    try:
        with contextlib.suppress(EOFError):
            while True:
                told.append(ours.recv())
        process.join()
    finally:
        process.kill()
    code = process.exitcode or 0
    if code > 0 and code != OUT:
        sys.exit(code)
    return told, code != 0
