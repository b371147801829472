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

TableRow = dict[str, Any]
LONGEST = 40  # characters of a text cell; a run's name is never truncated
LEAST_USEFUL = ("host", "began", "params", "seconds", "seed", "fold")  # omitted first, in this order
MOST_USEFUL = ("n", "why", "status")
LATEX = str.maketrans({c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
})  # fmt: skip


def shown(value: Any) -> str:
    """The text of a cell or a heading, in one line."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.4g}"  # a learning rate may be small
    return printable(value)


def with_headings(rows: Sequence[TableRow], headings: Mapping[str, str]) -> list[TableRow]:
    """Replace the names of columns by headings."""
    return [{headings.get(name, name): value for name, value in row.items()} for row in rows]


def text(rows: Sequence[TableRow]) -> str:
    lines = [[*map(shown, rows[0])], *([_clipped(name, value) for name, value in row.items()] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(_padded, line, widths)).rstrip() for line in lines)


def terminal(rows: Sequence[TableRow]) -> str:
    """A text table that fits the terminal. A last line names the columns that were omitted."""
    width = shutil.get_terminal_size((120, 24)).columns
    kept, omitted = list(rows[0]), []
    for name in _least_useful_first(rows):
        if all(_width(line) <= width for line in text([{key: row[key] for key in kept} for row in rows]).split("\n")):
            break
        kept.remove(name)
        if any(shown(row[name]) for row in rows):  # empty columns are not mentioned
            omitted.append(name)
    table = text([{key: row[key] for key in kept} for row in rows])
    return f"{table}\n\nomitted: {', '.join(map(printable, omitted))}; --all shows them" if omitted else table


def _least_useful_first(rows: Sequence[TableRow]) -> list[str]:
    """The columns that may be omitted: empty ones, constant ones, those about the machine, further scores, settings.

    The first column and the first score are always shown.
    """
    names = list(rows[0])
    scores = [name for name in names if "/" in name][:1]
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
    """The width in a terminal: a Chinese character takes two columns, a combining accent none."""
    return sum((unicodedata.east_asian_width(c) in "WF") + (not unicodedata.combining(c)) for c in cell)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def markdown(rows: Sequence[TableRow]) -> str:
    return tables.table([*map(shown, rows[0])], ([*map(shown, row.values())] for row in rows))


def latex(rows: Sequence[TableRow]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

    body = [line([shown(value) for value in row.values()]) for row in rows]
    head = [
        rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", line([*map(shown, rows[0])]), r"\midrule"
    ]  # fmt: skip
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])


def as_csv(rows: Sequence[TableRow]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([csv_cell(printable(name)) for name in rows[0]])
    for row in rows:
        writer.writerow([csv_cell(printable(cell)) if isinstance(cell, str) else cell for cell in row.values()])
    return file.getvalue().rstrip("\n")


def as_json(rows: Sequence[TableRow]) -> str:
    def known(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no NaN

    content = [{name: known(value) for name, value in row.items()} for row in rows]
    lines = json.dumps(content, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in lines)


FORMATS: dict[str, Callable[[Sequence[TableRow]], str]] = {
    "text": terminal, "markdown": markdown, "latex": latex, "csv": as_csv, "json": as_json,
}  # fmt: skip
FOR_PROGRAMS = ("csv", "json")  # formats without headings: the columns keep the names that `where` and `sort` take
