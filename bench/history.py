"""The ratios of all runs of the bench, so that a slower commit is seen: history.json, and a table of the last runs."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
SHOWN = 6  # runs in a table
NOTICED = 1.1  # a ratio is marked if it is so many times the one before


def add(cases: str, lines: Sequence[dict], commit: str, machine: str, num_rounds: int, folder: Path = HERE) -> None:
    """Add a run to the history, and write its table.

    Args:
        cases: such as "cpu".
        lines: of the table, with `what` and `ratio`.
        commit: that was measured.
        machine: the processor and the versions.
        num_rounds: whose medians the ratios are.
        folder: of the history.
    """
    path = folder / "history.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    ratios = {line["what"]: round(line["ratio"], 4) for line in lines}
    runs.append({
        "cases": cases, "date": date.today().isoformat(), "commit": commit, "machine": machine, "rounds": num_rounds,
        "ratios": ratios,
    })  # fmt: skip
    path.write_text(json.dumps(runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "history.md").write_text(markdown(runs), encoding="utf-8")


def markdown(runs: Sequence[dict]) -> str:
    """A table for each kind of cases: a row for each ratio, a column for each of the last runs, the latest last."""
    text = ["Each run of the bench adds its ratios; a smaller ratio is better. ▲: 10 % above the run before.", ""]
    for cases in dict.fromkeys(run["cases"] for run in runs):
        shown = [run for run in runs if run["cases"] == cases][-SHOWN:]
        heads = [f"{run['date']} {run['commit']}" for run in shown]
        text += [f"## {cases}", f"| what | {' | '.join(heads)} |", "|---" * (len(shown) + 1) + "|"]
        for what in dict.fromkeys(what for run in shown for what in run["ratios"]):
            text.append(f"| {what} | {' | '.join(_cells([run['ratios'].get(what) for run in shown]))} |")
        text += [
            "",
            *(f"* {head}: {run['machine']}; {run['rounds']} rounds" for head, run in zip(heads, shown, strict=True)),
        ]
        text.append("")
    return "\n".join(text)


def _cells(ratios: Sequence[float | None]) -> list[str]:
    cells, before = [], None
    for ratio in ratios:
        mark = " ▲" if before and ratio and ratio > NOTICED * before else ""
        cells.append("" if ratio is None else f"{ratio:.3g}{mark}")
        before = ratio or before
    return cells
