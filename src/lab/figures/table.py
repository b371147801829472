from collections.abc import Mapping, Sequence


def table(title: str, columns: Mapping[str, Sequence[str]]) -> str:
    """Texts as a Markdown table; whatever they hold, it stays one row for each."""
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([f"**{title}**", "", *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
