"""The rows of `lab runs`: one per run, or one per group of runs. Nothing heavy is imported here."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lab.engine.errors import UserError
from lab.engine.runs.index import ARROWS, RunInfo, monitored, the_best
from lab.engine.runs.table import TableRow


def headings(runs: Sequence[RunInfo]) -> dict[str, str]:
    """The headings of score columns with an arrow, such as `val/acc ↑`; `test/acc` has the arrow of `val/acc`."""
    arrows = monitored(runs)
    arrows |= {f"test/{name.partition('/')[2]}": arrow for name, arrow in arrows.items() if name.startswith("val/")}
    return {name: f"{name} {arrow}" for name, arrow in arrows.items()}


def rows_of(runs: Sequence[RunInfo]) -> list[TableRow]:
    """A row for each run: the overrides that differ, its scores, and its size, time and machine."""
    keys, metrics = _varied(runs), list(monitored(runs))
    tests = dict.fromkeys(name for run in runs for name in run.test if name != "test/loss")

    def row(run: RunInfo) -> TableRow:
        about = {"params": run.parameters, "seconds": run.seconds, "began": run.value("began"), "host": run.host}
        scores = {name: run.best.get("value") if run.best.get("metric") == name else None for name in metrics}
        scores |= {name: run.test.get(name) for name in tests}
        overrides = {key: run.value(key) for key in keys}
        return {"run": run.folder, "status": run.status, **overrides, **scores, **about, "why": run.error[:60]}

    return [row(run) for run in runs]


def _varied(runs: Sequence[RunInfo]) -> list[str]:
    """The keys of the overrides that differ between runs."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if not key.startswith("sweep"))
    values = {key: {(key in run.overrides, run.value(key)) for run in runs} for key in keys}
    return [key for key in keys if key != "experiment" and len(values[key]) > 1]


def group_rows(runs: Sequence[RunInfo], keys: Sequence[str]) -> Iterator[TableRow]:
    """Yield a row for each combination of the keys' values: mean ± standard deviation of the finished runs' scores."""
    groups: dict[tuple[Any, ...], list[RunInfo]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in keys), []).append(run)
    names = list(dict.fromkeys([*monitored(runs), *(name for run in runs for name in run.test)]))
    for values, members in groups.items():
        done = distinct(run for run in members if run.status == "finished")
        scores = {name: spread([v for run in done if (v := run.value(name)) is not None]) for name in names}
        yield {**dict(zip(keys, values, strict=True)), "n": len(done), **scores}


def distinct(runs: Iterable[RunInfo]) -> list[RunInfo]:
    """The newest of the runs that repeat each other (same config, data and commit): a repeat is no new sample."""
    return list({run.digest: run for run in runs}.values())


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; the mean alone of one value; "" of none."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def sort_rows(rows: Sequence[TableRow], runs: Sequence[RunInfo], word: str) -> list[TableRow]:
    """Sort rows by a column. Rows without a value come last.

    Args:
        rows: the rows.
        runs: the runs that they show.
        word: the column; `-KEY` puts the largest value first. `best` puts the best run first, and `-best` last.

    Raises:
        UserError: there is no such column.
    """
    name, reverse = word.removeprefix("-").rstrip(f" {''.join(ARROWS.values())}"), word.startswith("-")
    if name == "best":
        name = the_best(runs, f"sort {word}")
        reverse ^= any(run.best.get("mode") == "max" for run in runs)
    if name not in rows[0]:
        raise UserError(f"error: sort {word}: there is no such column. The columns are: {', '.join(rows[0])}.")
    keyed = [(key, row) for row in rows if (key := _order(row[name])) is not None]
    keyed.sort(key=lambda pair: pair[0], reverse=reverse)
    return [*(row for _, row in keyed), *(row for row in rows if _order(row[name]) is None)]


def _order(value: Any) -> tuple[bool, float, str] | None:
    """The sort key of a cell: a number, the mean of a group, or a text; None for an empty cell."""
    if value is None or value == "":
        return None
    try:
        key = float(value.partition(" ±")[0] if isinstance(value, str) else value)
    except ValueError:
        return True, 0.0, str(value)
    return None if math.isnan(key) else (False, key, "")
