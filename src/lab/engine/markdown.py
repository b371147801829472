"""Writing and reading Markdown tables. Nothing heavy is imported here."""

import html
import re
from collections.abc import Iterable, Sequence

from lab.engine.display import printable

SPECIAL = re.compile(r"[\\|`*]")
CELL = re.compile(r" ((?:\\.|[^\\|])*) \|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> str:
    """A Markdown table with one line per row. A line break in a cell becomes a space, another control an escape."""
    lines = [head, ["---"] * len(head), *rows]
    body = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    return f"**{title}**\n\n{body}" if title else body


def parse_table(text: str) -> list[list[str]]:
    """The cells of a table that `table` has written, row by row; the first row is the header."""
    lines = [CELL.findall(line[1:]) for line in text.split("\n") if line.startswith("|")]
    cells = [[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in line] for line in lines]
    return cells[:1] + cells[2:]


def _cell(text: str) -> str:
    line = html.escape(printable(" ".join(text.splitlines())), quote=False)
    return SPECIAL.sub(r"\\\g<0>", line)
