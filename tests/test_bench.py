"""The bench measures what it says only as long as its commands are sound."""

import re
import subprocess
import sys

import pytest
from conftest import CONF

from lab import config
from lab.data import tiny

BENCH = CONF.parent / "bench"
sys.path.append(str(BENCH))
import bench  # noqa: E402

TRAIN = {
    f"{cases} {name}": command[2:]
    for cases in ("CPU", "ACCURACY", "GPU")
    for name, command in getattr(bench, f"{cases}_COMMANDS").items()
    if command[:2] == [bench.LAB, "train"] and "--help" not in command
}


def test_there_is_something_to_time():
    assert len(TRAIN) > 10


@pytest.mark.parametrize("name", TRAIN)
def test_a_command_is_one_that_lab_takes(name):
    overrides = [word.replace("SEED", "0") for word in TRAIN[name] if "=" in word]
    config.check_command_line("train", [*overrides, *(["-m"] if "-m" in TRAIN[name] else [])])


@pytest.mark.parametrize("script", ["floor.py mlp --batch-size=16", "floor.py cnn --batch-size=16", "listing.py"])
def test_a_script_runs_without_lab(script):
    from torchvision.datasets import FashionMNIST

    root, _ = tiny.torchvision_images(FashionMNIST)
    name, *arguments = script.split()
    command = [sys.executable, str(BENCH / name), *arguments, f"--root={root}", "--epochs=2", "--steps=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len([float(line) for line in done.stdout.split()]) == 2
    assert not re.search(r"(import|from) lab\b", (BENCH / name).read_text())


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    row = bench.Row("x", lambda r: r["a"], lambda r: r["b"], 1.0)
    (line,) = bench.table([row], [{"a": 1, "b": 2}, {"a": 3, "b": 1}, {"a": 8, "b": 8}])
    assert (line["ratio"], line["least"], line["most"]) == (1.0, 0.5, 3.0)
