"""docs/extending.md is executed: its blocks become files, and its commands run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONF

PAGE = CONF.parent / "docs/extending.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
NEEDS_NO_END = "lab serve"  # test_proofs.py asks a server


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The files of the page, installed."""
    folder = tmp_path_factory.mktemp("extending")
    for language, text in BLOCKS:
        first, _, rest = text.partition("\n")
        if language != "console":
            path = folder / first.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rest, encoding="utf-8")
    entry_points = (folder / "pyproject.toml").read_text().partition('[project.entry-points."lab.packages"]')[2]
    (folder / "mylab-0.1.dist-info").mkdir()
    (folder / "mylab-0.1.dist-info/entry_points.txt").write_text(f"[lab.packages]{entry_points.replace(chr(34), '')}")
    return folder


def commands() -> list[str]:
    return [line for language, text in BLOCKS if language == "console" for line in text.splitlines()]


def test_the_commands_of_the_page_run(package, lab_in):
    for line in commands():
        if line.startswith(NEEDS_NO_END):
            continue
        verb, *words = shlex.split(line)
        if verb == "python":
            subprocess.run([sys.executable, *words], cwd=package, check=True)
            continue
        more = ["trainer=cpu", "trainer.enable_progress_bar=false"] if words[0] == "train" else []
        result = lab_in(package, *words, *more)
        assert result.returncode == 0, f"{line}: {result.stderr}"
