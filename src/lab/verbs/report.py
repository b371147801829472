"""`lab report run=A [run=B …]`: a self-contained HTML page about one run, or about several runs side by side."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.engine.config_file import by_dotted_key, read_unchecked_config
from lab.engine.display import drawn, printable, printable_lines, say
from lab.engine.errors import UserError, fail, unknown
from lab.engine.files import expanded, read_bytes, read_metrics, read_text, write_text
from lab.engine.folder import CONFIG, DATA_REPORT, FIGURES, STAMP, latest, refuse_links
from lab.engine.markdown import parse_table
from lab.engine.runs.index import RunInfo, read_run
from lab.engine.runs.rows import headings, rows_of
from lab.engine.runs.table import TableRow, shown, with_headings

HELP = """lab report run=FOLDER [run=FOLDER ...] [output=FILE] [log_dir=logs]

Write a self-contained HTML page with the scores, curves, figures, config and stamp of a run. With several runs, the
page also shows the settings that differ, and the curves of all runs in one plot.

run=latest is the newest run in log_dir. The default output is report.html in the run's folder; for several runs,
comparison.html in the current directory."""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid #8886 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: left }
tr + tr { border-top: 1px solid #8884 } td:not(:first-child) { font-variant-numeric: tabular-nums }
.wide { overflow-x: auto } img { max-width: 100%; border-radius: 4px; background: white }
figure { display: inline-block; margin: .5rem; vertical-align: top; max-width: 100% } figcaption { opacity: .7 }
pre { overflow-x: auto; padding: 1rem; background: #8882; border-radius: 4px; font-size: .85rem }
summary { cursor: pointer }"""


def main(arguments: Sequence[str]) -> None:
    """Write the page, and print its path.

    Raises:
        UserError: a folder is not a run, or the page cannot be written.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        say(*HELP.split("\n"))
        return
    words = [word.partition("=")[::2] for word in arguments]
    if wrong := [key for key, _ in words if key not in ("run", "output", "log_dir")]:
        fail([unknown("key", wrong[0], ("run", "output", "log_dir"))])
    settings = dict(words)
    logs = expanded(settings.get("log_dir", "logs"))
    folders = [latest(logs) if value == "latest" else expanded(value) for key, value in words if key == "run"]
    if not folders:
        fail(["run is required: run=FOLDER"])
    for folder in folders:
        if not (folder / CONFIG).is_file():
            fail([f"run={folder}: expected the folder of a run, but it has no {CONFIG}"])
        refuse_links(folder)
    output = (
        expanded(settings["output"])
        if settings.get("output")
        else (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    )
    try:
        write_text(output, page(folders))
    except OSError as error:
        raise UserError(f"error: output={output}: the page could not be written: {error.strerror}.") from error
    say(output)


def page(folders: Sequence[Path]) -> str:
    runs = [read_run(folder, str(folder)) for folder in folders]
    title = printable(" and ".join(dict.fromkeys(run.overrides.get("experiment", run.folder) for run in runs)))
    parts = [f"<h1>{html.escape(title)}</h1>", "<h2>Scores</h2>", _table_of_rows(_scores(runs))]
    if len(folders) > 1:
        parts += ["<h2>Differences</h2>", _table_of_rows(_differences(folders))]
    parts += ["<h2>Curves</h2>", *curves_of(folders)]
    for folder in folders:
        parts += [f"<h2>{html.escape(printable(folder))}</h2>", *_figures(folder), *texts_of(folder)]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width">'
    return f"<!doctype html><html lang=en><head>{head}{viewport}</head><body>{''.join(parts)}</body></html>\n"


def _scores(runs: Sequence[RunInfo]) -> list[TableRow]:
    rows = with_headings(rows_of(runs), headings(runs))
    return [{**row, "commit": run.commit} for row, run in zip(rows, runs, strict=True)]


def _differences(folders: Sequence[Path]) -> list[TableRow]:
    configs = [by_dotted_key(read_unchecked_config(folder)) for folder in folders]
    keys = dict.fromkeys(key for config in configs for key in config)
    names = [f"{folder}" for folder in folders]
    return [
        {"key": key, **{name: str(config.get(key, "")) for name, config in zip(names, configs, strict=True)}}
        for key in keys if len({str(config.get(key)) for config in configs}) > 1
    ]  # fmt: skip


def curves_of(folders: Sequence[Path]) -> Iterable[str]:
    """A plot of each metric over the epochs: training and validation of one run, or the validation of several runs."""
    from lab.figures.page import CYCLE, GREY, axes_of_curves

    tables = {str(folder): _columns(folder / "metrics.csv") for folder in folders}
    names = dict.fromkeys(name for table in tables.values() for name in table if name.startswith("val/"))
    for name in names:
        figure, axis = axes_of_curves(name.partition("/")[2])
        labels: list[str] = []
        for i, (folder, table) in enumerate(tables.items()):
            train = table.get(name.replace("val/", "train/"), []) if len(tables) == 1 else []
            if train:
                axis.plot(*zip(*train, strict=True), color=GREY)
                labels.append("training")
            if name in table:
                axis.plot(*zip(*table[name], strict=True), color=CYCLE[i % len(CYCLE)])
                label = drawn(f"run {folder}")  # matplotlib hides a label that starts with _
                labels.append("validation" if len(tables) == 1 else label)
        axis.legend(axis.get_lines(), labels, fontsize=8)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        yield _image(file.getvalue(), name)


def _columns(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The (epoch, value) pairs of each metric; epochs are counted from 1."""
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in read_metrics(path) if path.exists() else []:
        for name, value in row.items():
            if "/" in name and "epoch" in row:
                columns.setdefault(name, []).append((row["epoch"] + 1, value))
    return columns


def _figures(folder: Path) -> Iterable[str]:
    for path in sorted([*(folder / FIGURES).glob("*.png"), *folder.glob("explain/*.png")]):
        yield _image(read_bytes(path), path.stem.replace("_", " "))
    for path in sorted((folder / FIGURES).glob("*.wav")):
        yield _sound(read_bytes(path), path.stem.replace("_", " "))


def texts_of(folder: Path) -> Iterable[str]:
    for path in sorted((folder / FIGURES).glob("*.md")):
        yield _details(path.stem.replace("_", " "), _table(parse_table(read_text(path))))
    for name in (DATA_REPORT, CONFIG, STAMP):
        if (folder / name).exists():
            yield _details(name, f"<pre>{html.escape(printable_lines(read_text(folder / name)))}</pre>")


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(printable(title))}</summary>{content}</details>"


def _table_of_rows(rows: Sequence[TableRow]) -> str:
    return _table([[*rows[0]], *([*row.values()] for row in rows)] if rows else [])


def _table(lines: Sequence[Sequence[Any]]) -> str:
    """An HTML table; the first line is the header."""

    def line(cells: Iterable[Any], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(shown(cell))}</{tag}>' for cell in cells)}</tr>"

    if len(lines) < 2:
        return "<p>none</p>"
    body = "".join(line(cells, "td") for cells in lines[1:])
    return f'<div class="wide"><table>{line(lines[0], "th")}{body}</table></div>'


def _image(content: bytes, caption: str) -> str:
    data, text = base64.b64encode(content).decode(), html.escape(printable(caption))
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _sound(content: bytes, caption: str) -> str:
    data, text = base64.b64encode(content).decode(), html.escape(printable(caption))
    player = f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    return f"<figure>{player}<figcaption>{text}</figcaption></figure>"
