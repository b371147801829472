"""The bench measures what it says only as long as its commands are sound."""

import re
import subprocess
import sys

import pytest
from conftest import CONF

from lab.data import tiny
from lab.engine.config.command_line import check_command_line

BENCH = CONF.parent / "bench"
sys.path.append(str(BENCH))
import bench  # noqa: E402

TRAIN = {
    f"{cases} {name}": command[2:]
    for cases in ("CPU", "ACCURACY", "SWEEP", "GPU")
    for name, command in getattr(bench, f"{cases}_COMMANDS").items()
    if command[:2] == [bench.LAB, "train"] and "--help" not in command
}


def test_there_is_something_to_time():
    assert len(TRAIN) > 10


@pytest.mark.parametrize("name", TRAIN)
def test_a_command_is_one_that_lab_takes(name):
    overrides = [word.replace("SEED", "0") for word in TRAIN[name] if "=" in word]
    check_command_line("train", [*overrides, *(["-m"] if "-m" in TRAIN[name] else [])])


@pytest.mark.parametrize(
    ("script", "num_lines"),
    [
        ("floor.py mlp --batch-size=16 --epochs=2 --steps=2", 2),
        ("floor.py cnn --batch-size=16 --epochs=2 --steps=2", 2),
        ("listing.py --epochs=2 --steps=2", 2),
        ("lht.py --epochs=1 --out=OUT", 1),
    ],
)
def test_a_script_runs_without_lab(script, num_lines, tmp_path):
    from torchvision.datasets import FashionMNIST

    root, _ = tiny.torchvision_images(FashionMNIST)
    name, *arguments = script.replace("OUT", str(tmp_path)).split()
    command = [sys.executable, str(BENCH / name), *arguments, f"--root={root}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(float(line) > 0 for line in done.stdout.splitlines()[-num_lines:])
    assert not re.search(r"(import|from) lab\b", (BENCH / name).read_text())


@pytest.mark.parametrize("rows", [bench.CPU_ROWS, bench.ACCURACY_ROWS, bench.GPU_ROWS])
def test_a_row_reads_the_runs_it_names(rows):
    results = {
        "seconds": {"epochs": [9.0, 4.0, 5.0], "validations": [1.0, 2.0, 2.0], "first_step": 3.0},
        "test": {"test/acc": 0.9},
    }
    of_lab = bench.Run(cpu=2.0, wall=3.0, memory=4, output="", results=[results] * 3)
    of_script = bench.Run(cpu=2.0, wall=3.0, memory=4, output="9.0\n4.0\n0.9\n", results=[])
    scripts = (
        *(name for name in bench.CPU_COMMANDS if name.startswith("import")),
        "help",
        "cfg",
        "mlp floor",
        "lht",
        "cnn floor",
        "listing",
    )
    names = [*bench.CPU_COMMANDS, *bench.ACCURACY_COMMANDS, *bench.GPU_COMMANDS]
    runs = {name: of_script if name in scripts else of_lab for name in names}
    assert all(line["ratio"] > 0 for line in bench.table(rows, [runs]))
    assert of_lab.epoch == 2.5
    assert bench.lht(runs) == pytest.approx(2 + 9 * 0.9)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    row = bench.Row("x", lambda r: r["a"], lambda r: r["b"], 1.0)
    (line,) = bench.table([row], [{"a": 1, "b": 2}, {"a": 3, "b": 1}, {"a": 8, "b": 8}])
    assert (line["ratio"], line["least"], line["most"]) == (1.0, 0.5, 3.0)
