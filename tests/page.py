"""docs/extending.md and docs/own-task.md as files, which a reader of the pages writes and installs."""

import re
import tomllib
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
TEXT = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("extending.md", "own-task.md"))
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "console" for line in text.splitlines()]


def install(folder: Path) -> None:
    """Write the page's files to a folder, and what `pip install` would write beside them."""
    for language, text in BLOCKS:
        name, _, content = text.partition("\n")
        if language != "console":
            path = folder / name.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    (name, package), *_ = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"].items()
    (folder / "mylab-0.1.dist-info").mkdir()
    lines = [f"[{name}]", *(f"{key} = {value}" for key, value in package.items())]
    (folder / "mylab-0.1.dist-info/entry_points.txt").write_text("\n".join(lines))
