"""`lab tune`: suggest a learning rate or a batch size. The short trainings for this are not kept."""

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
from lab.verbs.tune.finders import Measurement, find_lr, try_size

TOLERANCE = 0.05  # the relative error of the largest batch size that fits
OUT_OF_MEMORY = 77  # an exit code


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
    """Check the config, search, print the overrides to use, and write a plot and a table."""
    filter_warnings()
    refuse_multiple_processes("tune", "it")
    freeze(cfg)
    settings = take_settings(cfg)
    check(cfg)
    if settings.find == "lr":
        _lr(cfg, settings)
    else:
        _batch_size(cfg, settings)


def take_settings(cfg: DictConfig) -> DictConfig:
    """Move the keys of conf/tune.yaml out of the config, which is then one for `lab train`."""
    OmegaConf.set_struct(cfg, False)
    settings = OmegaConf.create({key: cfg.pop(key) for key in Settings.__dataclass_fields__})
    OmegaConf.set_struct(cfg, True)
    problems = list(wrong_settings("tune", settings, Settings))
    if not problems:
        problems = [
            f"{key}.min={settings[key].min}: expected less than {key}.max={settings[key].max}"
            for key in ("lr", "batch_size")
            if settings[key].min >= settings[key].max
        ]
    if cfg.run is not None:
        problems.append(f"run={cfg.run}: tune makes no run; remove run=")
    problems += [
        f"{key}.lr: this optimizer has no learning rate to tune"
        for key, node in by_key("optimizer", cfg.optimizer).items() if "lr" not in node
    ]  # fmt: skip
    if problems:
        fail(problems)
    return settings


def _lr(cfg: DictConfig, settings: DictConfig) -> None:
    """Suggest a learning rate for each optimizer."""
    points, is_out_of_memory = _in_a_process(find_lr, cfg, settings)
    if is_out_of_memory:
        raise _too_large(cfg.data.batch_size)
    lrs, losses = curves.by_step(points)
    suggestion = curves.suggest(lrs, losses)
    rates = {key: node.lr for key, node in by_key("optimizer", cfg.optimizer).items()}
    first = next(iter(rates.values()))
    folder = runs.new_folder(Path(cfg.log_dir) / cfg.name / "tune")
    curves.write(folder / "lr.csv", ("lr", "loss", "smooth"), [*zip(lrs, losses, curves.smooth(losses), strict=True)])
    curves.draw_lr(folder / "lr.png", lrs, losses, suggestion, first)
    for key, rate in rates.items():
        suggested = suggestion * rate / first
        say(f"{key}.lr={suggested:.2g}  (between the steepest descent of the loss and its minimum; now {rate:g})")
    say(f"{folder}: lr.png, lr.csv")


def _batch_size(cfg: DictConfig, settings: DictConfig) -> None:
    say(f"{'batch size':>10}  {'samples/s':>9}  {'peak GB':>8}")
    measurements, too_large, reason = _measure_sizes(cfg, settings)
    if not measurements:
        raise _too_large(settings.batch_size.min)
    largest, fastest = measurements[-1], max(measurements, key=lambda each: each.speed)
    folder = runs.new_folder(Path(cfg.log_dir) / cfg.name / "tune")
    rows = [
        (measurement.batch_size, round(measurement.speed), round(measurement.gigabytes, 3))
        for measurement in measurements
    ]
    curves.write(folder / "batch_size.csv", ("batch_size", "samples_per_second", "peak_gb"), rows)
    curves.draw_sizes(folder / "batch_size.png", measurements, largest, fastest, too_large)
    say(f"data.batch_size={largest.batch_size}  {reason}")
    say(f"data.batch_size={fastest.batch_size}  is the fastest: {fastest.speed:.0f} samples/s")
    say(f"{folder}: batch_size.png, batch_size.csv")


def _measure_sizes(cfg: DictConfig, settings: DictConfig) -> tuple[list[Measurement], int | None, str]:
    """Double the batch size until it does not fit, then bisect to within `TOLERANCE`.

    Returns:
        The measurements by batch size; the smallest size that does not fit; and the reason why the search ended.
    """
    measurements: list[Measurement] = []
    size, too_large = settings.batch_size.min, None
    while True:
        cfg.data.batch_size = size
        results, is_out_of_memory = _in_a_process(try_size, cfg, settings)
        measurements += results
        if is_out_of_memory:
            too_large = size
            say(f"{size:>10}  out of memory")
        else:
            result = results[0]
            say(f"{result.batch_size:>10}  {result.speed:>9.0f}  {result.gigabytes:>8.2f}")
            if result.batch_size < size or size == settings.batch_size.max:
                limit = "the whole training split" if result.batch_size < size else "batch_size.max"
                return measurements, too_large, f"fits, and is {limit}"
        fits = measurements[-1].batch_size if measurements else 0
        if too_large is None:
            size = min(2 * size, settings.batch_size.max)
        elif not fits or too_large - fits <= max(1, TOLERANCE * fits):
            return (
                measurements,
                too_large,
                f"is the largest that fits, to {TOLERANCE:.0%}; {too_large} does not fit",
            )
        else:
            size = (fits + too_large) // 2


def _too_large(batch_size: int) -> RunError:
    return RunError(f"error: data.batch_size={batch_size}: out of memory. find=batch_size finds the largest that fits.")


def _in_a_process(find: Callable[..., None], cfg: DictConfig, settings: DictConfig) -> tuple[list[Any], bool]:
    """Run a search in a forked process, because a process without memory may be killed or crash inside a library.

    Returns:
        The results that the search reported, and whether it ran out of memory.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def guarded() -> None:
        try:
            find(cfg, settings, sender.send)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            sys.exit(OUT_OF_MEMORY)

    process = context.Process(target=lambda: sys.exit(cli.exit_code(guarded)))
    process.start()
    sender.close()
    results: list[Any] = []
    try:
        with contextlib.suppress(EOFError):
            while True:
                results.append(receiver.recv())
        process.join()
    finally:
        process.kill()
    code = process.exitcode or 0
    if code > 0 and code != OUT_OF_MEMORY:
        sys.exit(code)
    return results, code != 0
