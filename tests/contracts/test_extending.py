"""docs/extending.md is executed: its blocks become files, its commands run, and its tests pass."""

import csv
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import page
import pytest

ENDLESS = "lab serve"  # test_proofs.py asks a server


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    page.install(folder)
    return folder


def test_the_commands_of_the_page_run(package, lab_in):
    for line in page.COMMANDS:
        if line.startswith(ENDLESS):
            continue
        program, *words = shlex.split(line)
        if program == "python":
            subprocess.run([sys.executable, *words], cwd=package, check=True)
            continue
        more = ["trainer=cpu", "trainer.enable_progress_bar=false"] if words[0] == "train" else []
        result = lab_in(package, *words, *more)
        assert result.returncode == 0, f"{line}: {result.stderr}"
    found, houses = (
        list(csv.DictReader(io.StringIO((package / name).read_text()))) for name in ("predictions.csv", "houses.csv")
    )
    assert [set(row) for row in found] == [{"numbers", "price", "error"}] * 400
    errors = [abs(float(row["price"]) - float(house["price"])) for row, house in zip(found, houses, strict=True)]
    assert sum(errors) / 400 < 0.2, "prices have noise of 0.1, and a range of 6"


def test_the_tests_of_the_page_pass(package):
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/test_mylab.py"]
    result = subprocess.run(command, cwd=package, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-500:]
