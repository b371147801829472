"""`lab runs`: list, compare, repeat, archive and delete runs. Only `rerun` imports torch."""

import argparse
import math
import shutil
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from lab.engine.config_file import by_dotted_key, read_unchecked_config
from lab.engine.display import counted, say
from lab.engine.errors import RunError, UserError
from lab.engine.files import read_bytes, read_json
from lab.engine.folder import DIFF, FACTS, STAMP, latest
from lab.engine.lock import held
from lab.engine.runs.index import RunInfo, add_defaults, monitored, parts_of, read_runs, select, the_best
from lab.engine.runs.rows import distinct, group_rows, headings, rows_of, sort_rows, spread
from lab.engine.runs.table import FOR_PROGRAMS, FORMATS, TableRow, terminal, text, with_headings

HELP = """lab runs [RUN ...]                        list runs; RUN: a folder below logs/, or a pattern like 'digits/*'
lab runs best [RUN ...]                   print the run with the best score
lab runs compare A B                      compare the configs and scores of two runs, or of two sets of seeds
lab runs rerun RUN                        train a run again, and check that the scores are the same
lab runs archive [RUN ...]                move runs to logs/.archive, after a question
lab runs rm [RUN ...]                     delete runs, after a question

  where KEY=VALUE ...    select runs by an override, a column, a metric or best; also with !=, <, >, <=, >=
  sort KEY               sort by a column; -KEY: the largest value first; best: the best run first
  --group-by KEY,...     a row per value of KEY: mean ± standard deviation, such as over seeds; repeats count once
  --format FORMAT        text, markdown, latex, csv or json
  --all                  all columns, even if they are wider than the terminal
  --log-dir FOLDER       where the runs are; default: logs"""
ACTIONS = ("best", "compare", "rerun", "archive", "rm")


def main(arguments: Sequence[str]) -> None:
    """Run the action of the command line.

    Raises:
        UserError: there is no such run, key or option.
    """
    if {"-h", "--help"} & set(arguments):
        say(*HELP.split("\n"))
        return
    parser = argparse.ArgumentParser(prog="lab runs", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--where", nargs="+", default=[])
    parser.add_argument("--sort")
    parser.add_argument("--group-by")
    parser.add_argument("--format", choices=list(FORMATS), default="text")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--log-dir", type=Path, default=Path("logs"))
    action, words = (arguments[0], arguments[1:]) if arguments and arguments[0] in ACTIONS else ("list", arguments)
    try:
        args, unknown = parser.parse_known_args(list(options(words)))
    except argparse.ArgumentError as error:
        raise UserError(f"error: {error}") from error
    if unknown:
        raise UserError(f"error: unknown option {unknown[0]}.", *HELP.splitlines())
    if not args.log_dir.is_dir():
        raise UserError(f"error: there is no folder {args.log_dir}. Train a run first, or choose another --log-dir.")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # lab runs | head
    below = [path_below(word, args.log_dir) for word in args.words]
    args.where = [_below_log_dir(condition, args.log_dir) for condition in args.where]
    runs = read_runs(args.log_dir)
    add_defaults(runs, args.log_dir, set(_keys(args)))
    if action == "compare":
        compare(runs, below, args)
        return
    selected = select(runs, below, args.where)
    if not selected:
        raise UserError(f"error: no run in {args.log_dir} matches; it holds {counted(len(runs), 'run')}.")
    {"list": list_runs, "best": best, "rerun": rerun, "archive": archive, "rm": remove}[action](selected, args)


def _keys(args: argparse.Namespace) -> Iterator[str]:
    """Yield the keys of settings that the options name."""
    yield from (args.group_by or "").split(",")
    yield (args.sort or "").removeprefix("-")
    yield from (parts_of(condition)[0] for condition in args.where)


def _below_log_dir(condition: str, logs: Path) -> str:
    """A condition on `run` with the path relative to the log folder."""
    key, sign, value = parts_of(condition)
    return f"{key}{sign}{path_below(value, logs)}" if key == "run" else condition


def path_below(word: str, logs: Path) -> str:
    """The path of a run relative to the log folder; `latest` is the newest run."""
    word = str(latest(logs)) if word == "latest" else word
    for root in (logs, logs.absolute()):
        if Path(word).is_relative_to(root):
            return str(Path(word).relative_to(root))
    return word


def options(words: Sequence[str]) -> Iterator[str]:
    """Turn `where` and `sort KEY` into options of argparse, so that `-KEY` is not taken for an option."""
    remaining = iter(words)
    for word in remaining:
        yield f"--sort={next(remaining, '')}" if word == "sort" else "--where" if word == "where" else word


def list_runs(runs: list[RunInfo], args: argparse.Namespace) -> None:
    """Print a table of runs, or of groups of runs."""
    keys = args.group_by.split(",") if args.group_by else []
    if wrong := [key for key in keys if all(run.value(key) is None and key not in run.overrides for run in runs)]:
        raise UserError(f"error: --group-by {wrong[0]}: none of these runs has such an override.")
    rows = list(group_rows(runs, keys)) if keys else _rows(runs, args.log_dir)
    if args.sort:
        rows = sort_rows(rows, runs, args.sort)
    if args.format not in FOR_PROGRAMS:
        rows = with_headings(rows, headings(runs))
    _print(text(rows) if args.all and args.format == "text" else FORMATS[args.format](rows))


def _rows(runs: list[RunInfo], logs: Path) -> list[TableRow]:
    """A row for each run, with the path that `run=` takes."""
    return [row | {"run": str(logs / row["run"])} for row in rows_of(runs)]


def _print(table: str) -> None:
    say(*table.split("\n"))


def best(runs: list[RunInfo], args: argparse.Namespace) -> None:
    """Print the folder and the score of the run with the best value of the monitored metric."""
    done = [run for run in runs if run.status == "finished" and run.best]
    if not done:
        raise UserError("error: none of these runs is finished. lab runs shows their status.")
    metric = the_best(done, "best")
    choose = max if done[0].best["mode"] == "max" else min
    winner = choose(done, key=lambda run: run.best["value"])
    say(f"{args.log_dir / winner.folder}  {metric} {winner.best['value']:.4f}")


def compare(runs: list[RunInfo], words: Sequence[str], args: argparse.Namespace) -> None:
    """Print the settings and scores that differ between two runs, or two sets of runs.

    The runs of two sets are paired by seed and fold, and the differences are tested.
    """
    if len(words) != 2:
        raise UserError("error: compare takes two runs or patterns: lab runs compare A B.")
    sides = [distinct(run for run in select(runs, [word], args.where) if run.status == "finished") for word in words]
    for word, side in zip(words, sides, strict=True):
        if not side:
            raise UserError(f"error: no finished run in {args.log_dir} matches {word}.")
    configs = [by_dotted_key(read_unchecked_config(args.log_dir / side[0].folder)) for side in sides]
    different = [k for k in dict.fromkeys([*configs[0], *configs[1]]) if configs[0].get(k) != configs[1].get(k)]
    rows = [{"": key, words[0]: str(configs[0].get(key)), words[1]: str(configs[1].get(key))} for key in different]
    both = [*sides[0], *sides[1]]
    names = headings(both)
    scores = dict.fromkeys([*monitored(both), *(name for run in both for name in run.test)])
    shared = [name for name in scores if all(run.value(name) is not None for run in both)]
    for name in shared:
        a, b = ([run.value(name) for run in side] for side in sides)
        rows.append({"": names.get(name, name), words[0]: spread(a), words[1]: spread(b)})
    _print(text(rows) if args.format == "text" else FORMATS[args.format](rows))
    repeats = [{_repeat(args.log_dir / run.folder): run for run in side} for side in sides]
    if many := [w for w, side, by in zip(words, sides, repeats, strict=True) if len(side) > len(by)]:
        say(f"{many[0]} has several runs of one seed. For a paired test, select one run per seed with `where`.")
        return
    pairs = [(repeats[0][key], repeats[1][key]) for key in repeats[0] if key in repeats[1]]
    if len(pairs) > 1:
        for name in shared:
            say(paired(name, [(a.value(name), b.value(name)) for a, b in pairs]))


def _repeat(folder: Path) -> tuple[Any, ...]:
    """The seed and the fold of a run, by which runs are paired."""
    cfg = read_unchecked_config(folder)
    return tuple(cfg.get(key) for key in ("seed", "cv", "fold"))


def paired(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """The mean difference, its standard error, and the p-value of the paired t-test (Student 1908)."""
    differences = [b - a for a, b in pairs]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    if deviation == 0:
        return f"{name}: {mean:+.4f} in each of {len(pairs)} pairs"
    from scipy.stats import ttest_rel

    p = ttest_rel([b for _, b in pairs], [a for a, _ in pairs]).pvalue
    error = deviation / math.sqrt(len(pairs))
    return f"{name}: mean difference {mean:+.4f}, standard error {error:.4f}, {len(pairs)} pairs, p = {p:.3g}"


def rerun(runs: list[RunInfo], args: argparse.Namespace) -> None:
    """Train a run again from its stamp, and print whether config, code, packages, data and scores are the same.

    Raises:
        UserError: several runs match.
        RunError: the scores differ.
    """
    if len(runs) != 1:
        raise UserError(f"error: rerun takes one run, but {len(runs)} match. Name one folder.")
    from lab.engine import cli
    from lab.engine.config.allow import read_config
    from lab.engine.config.compose import compose_config
    from lab.engine.config.run_overrides import run_overrides
    from lab.engine.config.words import override_word

    old = args.log_dir / runs[0].folder
    new = old.with_name(f"{old.name}_rerun_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    train = cli.import_heavy("lab.train")
    words = [*run_overrides(old, read_config(old)), override_word("run", str(new))]
    train.main(compose_config("train", words))
    stamps = [read_json(folder / STAMP) for folder in (old, new)]
    diffs = [read_bytes(folder / DIFF) if (folder / DIFF).exists() else b"" for folder in (old, new)]
    scores = [select(read_runs(args.log_dir), [str(f.relative_to(args.log_dir))], [])[0] for f in (old, new)]
    same: dict[str, bool | None] = {
        "config": by_dotted_key(read_unchecked_config(old)) == by_dotted_key(read_unchecked_config(new)),
        "code": (stamps[0]["git"], diffs[0]) == (stamps[1]["git"], diffs[1]) if stamps[1]["git"] else None,
        "packages": stamps[0]["packages"] == stamps[1]["packages"],
        "data": read_json(old / FACTS, "fingerprint")["fingerprint"] == read_json(new / FACTS)["fingerprint"],
        "scores": (scores[0].best, scores[0].test) == (scores[1].best, scores[1].test),
    }
    say("")
    for name, is_same in same.items():
        say(f"{name:<9} {'unknown' if is_same is None else 'the same' if is_same else 'different'}")
    if not same["scores"]:
        changed = ", ".join(dict.fromkeys(key for resumed in stamps[0]["resumed"] for key in resumed["changes"]))
        hint = f" {old} was resumed with another {changed}; the rerun had it from the start." if changed else ""
        raise RunError(f"error: {new} has different scores than {old}. lab runs compare shows them.{hint}")


def archive(runs: list[RunInfo], args: argparse.Namespace) -> None:
    """Move runs to the hidden folder `.archive`, whose runs are not listed."""

    def move(run: RunInfo) -> None:
        target = first_choice = args.log_dir / ".archive" / run.folder
        numbers = count(1)
        while target.exists():
            target = first_choice.with_name(f"{first_choice.name}_{next(numbers)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(args.log_dir / run.folder, target)

    _ask("archive", runs, args, move)


def remove(runs: list[RunInfo], args: argparse.Namespace) -> None:
    """Delete runs."""
    _ask("remove", runs, args, lambda run: shutil.rmtree(args.log_dir / run.folder))


def _ask(verb: str, runs: list[RunInfo], args: argparse.Namespace, do: Callable[[RunInfo], None]) -> None:
    """List the runs and ask the user; if the answer is yes, do it to each run."""
    if running := [run.folder for run in runs if run.status == "running"]:
        raise UserError(f"error: {running[0]} is running. Stop it first.")
    _print(terminal(with_headings(_rows(runs, args.log_dir), headings(runs))))
    say(f"{verb} {'this run' if len(runs) == 1 else f'these {len(runs)} runs'}? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        return
    for run in runs:
        with held(args.log_dir / run.folder, strict=True):  # it may have been started since the question
            do(run)
