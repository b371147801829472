"""`lab runs`: the runs in `logs/` as a table. Nothing heavy is imported before a run is run again."""

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

from lab.errors import RunError, UserError
from lab.folder import DIFF, FACTS, STAMP, flat, read_bytes, read_config, read_json
from lab.lock import is_held
from lab.runs.index import Run, read, select
from lab.runs.table import FORMATS, Row

HELP = """lab runs [RUN ...]                        a table; RUN is a folder below logs/, or a pattern
lab runs best [RUN ...]                   the best of them
lab runs compare A B                      their configs and scores side by side; A and B may match several seeds
lab runs rerun RUN                        the same again: are its scores the same?
lab runs archive|rm [RUN ...]             out of the way, or for good; asks first

  where KEY=VALUE ...    of those only: an override, status, best, a test metric; also !=, <, >, <=, >=
  sort KEY               -KEY: the largest first
  --group-by KEY,...     mean ± standard deviation over the others, such as seeds
  --format FORMAT        text, markdown, latex, csv, json
  --log-dir FOLDER       logs"""
ACTIONS = ("best", "compare", "rerun", "archive", "rm")


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says.

    Raises:
        UserError: there is no such run, key or option.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    parser = argparse.ArgumentParser(prog="lab runs", add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--where", nargs="+", default=[])
    parser.add_argument("--sort")
    parser.add_argument("--group-by")
    parser.add_argument("--format", choices=list(FORMATS), default="text")
    parser.add_argument("--log-dir", type=Path, default=Path("logs"))
    action, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in ACTIONS else ("list", arguments)
    try:
        args, unknown = parser.parse_known_args(list(options(rest)))
    except argparse.ArgumentError as error:
        raise UserError(f"error: {error}") from error
    if unknown:
        raise UserError(f"error: unknown option {unknown[0]}.", *HELP.splitlines())
    if not args.log_dir.is_dir():
        raise UserError(f"error: there is no folder {args.log_dir}; lab train makes it, or --log-dir says another.")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # lab runs | head
    below = [_below(word, args.log_dir) for word in args.words]
    runs = read(args.log_dir)
    if action == "compare":
        compare(runs, below, args)
        return
    found = select(runs, below, args.where)
    if not found:
        raise UserError(f"error: no run in {args.log_dir} is meant by that; there are {len(runs)}.")
    {"list": table, "best": best, "rerun": rerun, "archive": archive, "rm": remove}[action](found, args)


def _below(word: str, logs: Path) -> str:
    """A run as it is called below the logs, however it was given."""
    for root in (logs, logs.absolute()):
        if Path(word).is_relative_to(root):
            return str(Path(word).relative_to(root))
    return word


def options(words: Sequence[str]) -> Iterator[str]:
    """`where` and `sort KEY` as argparse has them; `-KEY` is no option to it then."""
    rest = iter(words)
    for word in rest:
        yield f"--sort={next(rest, '')}" if word == "sort" else "--where" if word == "where" else word


def table(runs: list[Run], args: argparse.Namespace) -> None:
    rows = list(grouped(runs, args.group_by.split(","))) if args.group_by else rows_of(runs)
    if args.sort:
        name = args.sort.lstrip("-")
        if not any(name in r for r in rows):
            raise UserError(f"error: sort {name}: there is no such column. There are: {', '.join(rows[0])}.")
        rows.sort(key=lambda r: _order(r.get(name)), reverse=args.sort.startswith("-"))
    print(FORMATS[args.format](rows))


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 1, value, ""
    head = str(value).partition(" ±")[0]
    try:
        return 1, float(head), ""
    except ValueError:
        return 0, 0.0, str(value)


def columns(runs: Sequence[Run]) -> list[str]:
    """The overrides that not all runs share."""
    keys = dict.fromkeys(key for run in runs for key in run.overrides if not key.startswith("sweep"))
    return [key for key in keys if key != "experiment" and len({run.overrides.get(key) for run in runs}) > 1]


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """A row for each run: what sets it apart, its scores, and about it."""
    keys, tests = columns(runs), dict.fromkeys(name for run in runs for name in run.test if name != "test/loss")

    def row(run: Run) -> Row:
        began = datetime.fromtimestamp(run.began).isoformat(" ", "minutes")
        about = {"params": run.parameters, "seconds": run.seconds, "began": began, "host": run.host}
        scores = {"best": run.best.get("value"), **{name: run.test.get(name) for name in tests}}
        own = {key: run.value(key) for key in keys}
        return {"run": run.folder, "status": run.status, **own, **scores, **about, "why": run.error[:60]}

    return [row(run) for run in runs]


def grouped(runs: Sequence[Run], keys: Sequence[str]) -> Iterator[Row]:
    """A row for each combination of the keys' values: mean ± standard deviation of the finished runs' scores."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in keys), []).append(run)
    names = list(dict.fromkeys(name for run in runs for name in ("best", *run.test)))
    for values, members in groups.items():
        done = [run for run in members if run.status == "finished"]
        scores = {name: spread([v for run in done if (v := run.value(name)) is not None]) for name in names}
        yield {**dict(zip(keys, values, strict=True)), "n": len(done), **scores}


def spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def best(runs: list[Run], args: argparse.Namespace) -> None:
    """The folder of the best run, by the metric that it monitors."""
    done = [run for run in runs if run.status == "finished"]
    if not done:
        raise UserError("error: none of these runs is finished.")
    metrics = {(run.best["metric"], run.best["mode"]) for run in done}
    if len(metrics) > 1:
        raise UserError(f"error: these runs monitor {len(metrics)} different metrics; say which runs, or where.")
    ((metric, mode),) = metrics
    winner = (max if mode == "max" else min)(done, key=lambda run: run.best["value"])
    print(f"{args.log_dir / winner.folder}  {metric} {winner.best['value']:.4f}")


def compare(runs: list[Run], words: Sequence[str], args: argparse.Namespace) -> None:
    """What differs between two runs, or two sets of them, whose scores are then paired by seed and fold."""
    if len(words) != 2:
        raise UserError("error: compare takes two: lab runs compare A B")
    sides = [[run for run in select(runs, [word], args.where) if run.status == "finished"] for word in words]
    for word, side in zip(words, sides, strict=True):
        if not side:
            raise UserError(f"error: no finished run in {args.log_dir} is meant by {word}.")
    configs = [flat(read_config(args.log_dir / side[0].folder)) for side in sides]
    different = [k for k in dict.fromkeys([*configs[0], *configs[1]]) if configs[0].get(k) != configs[1].get(k)]
    rows = [{"": key, words[0]: str(configs[0].get(key)), words[1]: str(configs[1].get(key))} for key in different]
    shared = [n for n in ("best", *sides[0][0].test) if sides[1][0].value(n) is not None]
    for name in shared:
        a, b = ([run.value(name) for run in side] for side in sides)
        rows.append({"": name, words[0]: spread(a), words[1]: spread(b)})
    print(FORMATS[args.format](rows))
    repeats = [{_repeat(args.log_dir / run.folder): run for run in side} for side in sides]
    if many := [w for w, side, by in zip(words, sides, repeats, strict=True) if len(side) > len(by)]:
        print(f"{many[0]} has several runs of one seed: say which, with where, to have them paired.")
        return
    pairs = [(repeats[0][key], repeats[1][key]) for key in repeats[0] if key in repeats[1]]
    if len(pairs) > 1:
        for name in shared:
            print(paired(name, [(a.value(name), b.value(name)) for a, b in pairs]))


def _repeat(folder: Path) -> tuple[Any, ...]:
    """Which of the runs that are paired a run is: its seed, its fold."""
    cfg = read_config(folder)
    return tuple(cfg.get(key) for key in ("seed", "cv", "fold"))


def paired(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """The mean difference and Student's paired t-test (Student 1908)."""
    differences = [b - a for a, b in pairs]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    if deviation == 0:
        return f"{name}: {mean:+.4f} in each of {len(pairs)} pairs"
    from scipy.stats import ttest_rel

    p = ttest_rel([b for _, b in pairs], [a for a, _ in pairs]).pvalue
    return f"{name}: {mean:+.4f} ± {deviation / math.sqrt(len(pairs)):.4f} over {len(pairs)} pairs, p = {p:.3g}"


def rerun(runs: list[Run], args: argparse.Namespace) -> None:
    """Repeat a run from its stamp, and say whether code, config, data and scores agree."""
    if len(runs) != 1:
        raise UserError(f"error: rerun takes one run; {len(runs)} are meant.")
    from omegaconf import OmegaConf

    from lab import cli
    from lab.words import key_of, word

    old = args.log_dir / runs[0].folder
    stamp, cfg = read_json(old / STAMP, "overrides"), read_config(old)
    changes = {key: value for resumed in stamp.get("resumed", []) for key, value in resumed["changes"].items()}
    if root := OmegaConf.to_container(cfg.data, resolve=False).get("root"):  # type: ignore[union-attr]
        changes["data.root"] = root  # from wherever it began; a reference as it stands
    overrides = [w for w in stamp["overrides"] if key_of(w) not in ("run", *changes)]
    overrides += [word(key, value) for key, value in changes.items()]
    new = old.with_name(f"{old.name}_rerun_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    train, config = cli.import_heavy("lab.train"), cli.import_heavy("lab.config")
    train.main(config.compose("train", [*overrides, word("run", str(new))]))
    stamps = [read_json(folder / STAMP) for folder in (old, new)]
    diffs = [read_bytes(folder / DIFF) if (folder / DIFF).exists() else b"" for folder in (old, new)]
    scores = [select(read(args.log_dir), [str(f.relative_to(args.log_dir))], [])[0] for f in (old, new)]
    same = {
        "config": flat(read_config(old)) == flat(read_config(new)),
        "code": stamps[0]["git"] == stamps[1]["git"] and diffs[0] == diffs[1],
        "packages": stamps[0]["packages"] == stamps[1]["packages"],
        "data": read_json(old / FACTS, "fingerprint")["fingerprint"] == read_json(new / FACTS)["fingerprint"],
        "scores": (scores[0].best, scores[0].test) == (scores[1].best, scores[1].test),
    }
    print()
    for what, agrees in same.items():
        print(f"{what:<9} {'the same' if agrees else 'other'}")
    if not same["scores"]:
        raise RunError(f"error: {new} has other scores than {old}: lab runs compare shows them.")


def archive(runs: list[Run], args: argparse.Namespace) -> None:
    """Move runs to `.archive`, which no table shows."""

    def move(run: Run) -> None:
        target = place = args.log_dir / ".archive" / run.folder
        numbers = count(1)
        while target.exists():
            target = place.with_name(f"{place.name}_{next(numbers)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(args.log_dir / run.folder, target)

    _asked("archive", runs, args, move)


def remove(runs: list[Run], args: argparse.Namespace) -> None:
    """Delete runs."""
    _asked("remove", runs, args, lambda run: shutil.rmtree(args.log_dir / run.folder))


def _asked(word: str, runs: list[Run], args: argparse.Namespace, do: Callable[[Run], None]) -> None:
    if busy := [run.folder for run in runs if run.status == "running"]:
        raise UserError(f"error: {busy[0]} is running.")
    print(FORMATS["text"](rows_of(runs)))
    print(f"{word} {'this run' if len(runs) == 1 else f'these {len(runs)} runs'}? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        print("nothing is done")
        return
    for run in runs:
        if is_held(args.log_dir / run.folder):  # since the question
            raise UserError(f"error: {run.folder} is running.")
        do(run)
