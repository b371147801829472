"""docs/extending.md and own-task.md are executed: blocks become files, and commands run, tests among them."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import page
import pytest
from tables import read_rows

from lab.engine.errors import UserError

ELSEWHERE = ("lab export", "lab serve")  # test_proofs.py does both


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    page.install(folder)
    return folder


def test_the_commands_of_the_page_run(package, lab_in):
    path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    environ = os.environ | {"PYTHONPATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:xdist"}
    for line in page.COMMANDS:
        if line.startswith(ELSEWHERE):
            continue
        program, *words = shlex.split(line)
        if program == "python":
            result = subprocess.run([sys.executable, *words], cwd=package, env=environ, capture_output=True, text=True)
        else:
            more = ["trainer=cpu", "trainer.enable_progress_bar=false"] if words[0] == "train" else []
            result = lab_in(package, *words, *more)
        assert result.returncode == 0, f"{line}: {result.stdout[-3000:]} {result.stderr}"
    found, houses = (read_rows(package / name) for name in ("predictions.csv", "houses.csv"))
    assert all({"price", "error"} <= row.keys() for row in found)
    errors = [abs(float(row["price"]) - float(house["price"])) for row, house in zip(found, houses, strict=True)]
    assert sum(errors) / 400 < 0.2, "prices have noise of 0.1, and a range of 6"


def test_the_page_tells_how_many_lines_the_package_has():
    said = re.search(r"(\d+) lines in all", page.TEXT)
    code = [text for language, text in page.BLOCKS if re.match(r"# mylab/\w.*\.(py|yaml)\n", text)]
    assert said is not None
    assert int(said[1]) == sum(len(text.splitlines()) - 1 for text in code)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"size,price\n", b"size,cost\n" + b"1,2\n" * 12, b"size,price\n" + b"1,x\n" * 12, b"price\n" + b"1\n" * 12,
        b"size,price\n" + b"1\n" * 12, b"size,price\n" + b"1,2,3\n" * 12, b"size,price\n\xff,1\n", b"size,price\n1,2\n",
    ],
)  # fmt: skip
def test_the_table_of_the_page_refuses_other_files_in_a_line(package, content, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(package))
    (tmp_path / "table.csv").write_bytes(content)
    table = importlib.import_module("mylab.data").Table(f"{tmp_path}/table.csv", "price", batch_size=4)
    with pytest.raises(UserError) as error:
        table.read()
    assert len(str(error.value).splitlines()) == 1
