"""The commands of the bench are valid, and its rows read the right figures."""

import json
import math
import re
import runpy
import sys

import pytest
from conftest import CONF

from lab.data import tiny
from lab.engine.config.command_line import check_command_line

BENCH = CONF.parent / "bench"
sys.path.append(str(BENCH))
import bench  # noqa: E402
import history  # noqa: E402

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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("script", "num_lines"),
    [
        ("floor.py mlp --batch-size=16 --epochs=2 --steps=2", 2),
        ("floor.py cnn --batch-size=16 --epochs=2 --steps=2", 2),
        ("listing.py --epochs=2 --steps=2", 2),
        ("lht.py --epochs=1 --out=OUT", 1),
    ],
)
def test_a_script_runs_without_lab(script, num_lines, tmp_path, monkeypatch, capsys):
    from torchvision.datasets import FashionMNIST

    root, _ = tiny.torchvision_images(FashionMNIST)
    name, *arguments = script.replace("OUT", str(tmp_path)).split()
    monkeypatch.setattr(sys, "argv", [name, *arguments, f"--root={root}"])
    runpy.run_path(str(BENCH / name), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert all(math.isfinite(float(line)) for line in lines[-num_lines:])
    assert not re.search(r"(import|from) lab\b", (BENCH / name).read_text())


class Named(dict):
    """Runs by the names of their commands; `read` has the names that a row asked for."""

    read: str = ""

    def __getitem__(self, name):
        self.read = name
        return super().__getitem__(name)


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (bench.CPU_ROWS, ["help import", "cfg import", "imports of digits/import", "imports of language_id/import",
                          "imports of translate_emoji/import", "digits import", "digits import", "mlp/mlp floor",
                          "cnn/cnn floor", "mlp lht", "scale scale", "scale scale", "2 processes/digits",
                          "folder folder"]),
        (bench.ACCURACY_ROWS, ["fast listing", "fast listing", "listing in lab/listing"]),
        (bench.SWEEP_ROWS, ["8 runs/1 run", "2 at a time/1 at a time"]),
        (bench.GPU_ROWS, ["mlp/mlp floor", "cnn/cnn floor", "cifar10/", "cifar10/"]),
    ],
)  # fmt: skip
def test_a_row_divides_the_figures_of_two_commands(rows, pairs):
    results = {
        "seconds": {"epochs": [9.0, 4.0, 5.0], "validations": [1.0, 2.0, 2.0], "first_step": 3.0},
        "test": {"test/acc": 0.9},
    }
    of_lab = bench.Run(cpu=4.0, wall=3.0, memory=4, output="", results=[results] * 3)
    of_script = bench.Run(cpu=2.0, wall=3.0, memory=4, output="9.0\n4.0\n0.9\n", results=[])
    scripts = {name for name in bench.CPU_COMMANDS if name.startswith("import")}
    scripts |= {"help", "cfg", "mlp floor", "lht", "cnn floor", "listing"}
    names = [*bench.CPU_COMMANDS, *bench.ACCURACY_COMMANDS, *bench.SWEEP_COMMANDS, *bench.GPU_COMMANDS]
    runs = Named({name: of_script if name in scripts else of_lab for name in names})
    for row, pair in zip(rows, pairs, strict=True):
        for side, name in zip((row.above, row.below), pair.split("/" if "/" in pair else " "), strict=True):
            runs.read = ""
            side(runs)
            assert runs.read == name, row.what
    (line,) = bench.table([row for row in bench.CPU_ROWS if "LHT" in row.what], [runs])
    assert (line["above"], line["below"]) == (4.0, pytest.approx(2 + 9 * 0.9))
    assert of_lab.epoch == 2.5


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    row = bench.Row("x", lambda r: r["a"], lambda r: r["b"], 1.0)
    (line,) = bench.table([row], [{"a": 1, "b": 2}, {"a": 3, "b": 1}, {"a": 8, "b": 8}])
    assert (line["ratio"], line["least"], line["most"]) == (1.0, 0.5, 3.0)


def test_the_history_shows_the_last_runs_and_marks_a_slower_one(tmp_path):
    for i, ratio in enumerate([9.0, 1.0, 1.05, 1.2, 0.5, 0.5, 0.5]):
        lines = [{"what": "loop", "ratio": ratio}, *([{"what": "new", "ratio": 2.0}] if i == 6 else [])]
        history.add("cpu", lines, f"commit{i}", "a machine", 3, tmp_path)
    runs = json.loads((tmp_path / "history.json").read_text())
    assert [run["commit"] for run in runs] == [f"commit{i}" for i in range(7)]
    table = (tmp_path / "history.md").read_text()
    assert "| loop | 1 | 1.05 | 1.2 ▲ | 0.5 | 0.5 | 0.5 |" in table
    assert "| new |  |  |  |  |  | 2 |" in table
    assert "commit0" not in table


def test_the_history_in_the_repository_has_the_tables_of_its_runs():
    runs = json.loads((BENCH / "history.json").read_text())
    assert (BENCH / "history.md").read_text() == history.markdown(runs)


def test_no_round_starts_that_would_end_too_late():
    assert not bench.is_time_over(60 * bench.MINUTES, bench.FEWEST_ROUNDS - 1)
    assert bench.is_time_over(60 * (bench.MINUTES - 1), bench.FEWEST_ROUNDS)
    assert not bench.is_time_over(60 * (bench.MINUTES / 2), bench.FEWEST_ROUNDS)
