"""Rows as text, CSV, Markdown, LaTeX or JSON. Nothing heavy is imported here."""

import csv
import io
import json
import math
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lab.engine import markdown as tables
from lab.engine.display import UNSAFE, csv_cell, printable

Row = dict[str, Any]
LONGEST = 40  # columns of a cell of text; a run's name is shown whole
LEAST_USEFUL = ("host", "began", "params", "seconds", "seed", "fold")  # the first is left out first
MOST_USEFUL = ("n", "why", "status")
LATEX = str.maketrans({c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
})  # fmt: skip


def shown(value: Any) -> str:
    """A cell, or a heading, in one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.4g}"  # a learning rate may be small
    return printable(value)


def headed(rows: Sequence[Row], headings: Mapping[str, str]) -> list[Row]:
    """Rows whose columns have other names."""
    return [{headings.get(name, name): value for name, value in row.items()} for row in rows]


def text(rows: Sequence[Row]) -> str:
    lines = [[*map(shown, rows[0])], *([_clipped(name, value) for name, value in row.items()] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(_padded, line, widths)).rstrip() for line in lines)


def terminal(rows: Sequence[Row]) -> str:
    """As text that fits the terminal; a last line names the columns that were left out."""
    room = shutil.get_terminal_size((120, 24)).columns
    left, out = list(rows[0]), []
    for name in _least_useful_first(rows):
        if all(_width(line) <= room for line in text([{key: row[key] for key in left} for row in rows]).split("\n")):
            break
        left.remove(name)
        if any(shown(row[name]) for row in rows):  # an empty column is not missed
            out.append(name)
    table = text([{key: row[key] for key in left} for row in rows])
    return f"{table}\n\nleft out: {', '.join(map(printable, out))}; --all shows them" if out else table


def _least_useful_first(rows: Sequence[Row]) -> list[str]:
    """The columns that may be left out: empty ones, those with one value, those about the machine, further scores.

    The first column and the first two scores stay.
    """
    names = list(rows[0])
    scores = [name for name in names if "/" in name][:2]
    values = {name: {shown(row[name]) for row in rows} for name in names}

    def use(name: str) -> tuple[bool, bool, int, int]:
        if name in LEAST_USEFUL:
            rank = LEAST_USEFUL.index(name)
        else:
            rank = 9 if "/" in name else 11 if name in MOST_USEFUL else 10
        return values[name] != {""}, len(values[name]) > 1, rank, -names.index(name)

    return sorted((name for name in names[1:] if name not in scores), key=use)


def _clipped(name: str, value: Any) -> str:
    cell = shown(value)
    if name == "run" or _width(cell) <= LONGEST:
        return cell
    cell = cell[:LONGEST]
    while _width(cell) >= LONGEST:
        cell = cell[:-1]
    return f"{cell}…"


def _width(cell: str) -> int:
    """Columns of a terminal: a Chinese character takes two, a combining accent none."""
    return sum((unicodedata.east_asian_width(c) in "WF") + (not unicodedata.combining(c)) for c in cell)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def markdown(rows: Sequence[Row]) -> str:
    return tables.table([*map(shown, rows[0])], ([*map(shown, row.values())] for row in rows))


def latex(rows: Sequence[Row]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

    body = [line([shown(value) for value in row.values()]) for row in rows]
    head = [
        rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", line([*map(shown, rows[0])]), r"\midrule"
    ]  # fmt: skip
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])


def as_csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([csv_cell(printable(name)) for name in rows[0]])
    for row in rows:
        writer.writerow([csv_cell(printable(cell)) if isinstance(cell, str) else cell for cell in row.values()])
    return file.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row]) -> str:
    def known(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no NaN

    content = [{name: known(value) for name, value in row.items()} for row in rows]
    lines = json.dumps(content, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in lines)


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "text": terminal, "markdown": markdown, "latex": latex, "csv": as_csv, "json": as_json,
}  # fmt: skip
FOR_PROGRAMS = ("csv", "json")  # whose column names are those that where and sort take
