"""The pages of the documentation, and their commands."""

import re
import shlex
from itertools import chain
from pathlib import Path

from conftest import CONF

ROOT = CONF.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])


def commands(page: Path) -> list[str]:
    """The commands of a page, without their comments; a block that begins with `$` shows output too."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = chain.from_iterable(block.splitlines() for block in blocks if not block.startswith("$ "))
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [line for line in found if line and not line.startswith("python ")]
