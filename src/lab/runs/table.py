"""Rows as text, CSV, Markdown, LaTeX or JSON. Nothing heavy is imported here."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def text(rows: Sequence[Row]) -> str:
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    head = [list(rows[0]), ["---"] * len(rows[0])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*head, *(map(shown, row.values()) for row in rows)])


def latex(rows: Sequence[Row]) -> str:
    def line(cells: Sequence[str]) -> str:
        special = str.maketrans({c: f"\\{c}" for c in "_%&#$"} | {"±": r"$\pm$"})
        return " & ".join(cell.translate(special) for cell in cells) + r" \\"

    body = [line([shown(value) for value in row.values()]) for row in rows]
    head = [rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", line(list(rows[0])), r"\midrule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])


def as_csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps(list(rows), indent=2, ensure_ascii=False)


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "text": text, "markdown": markdown, "latex": latex, "csv": as_csv, "json": as_json,
}  # fmt: skip
