"""What lab costs, as ratios to something measured beside it in the same run.

    make bench            the CPU cases: loops, start-up, scaling
    make bench-accuracy   time to the accuracy of the article's listing, and that accuracy
    make bench-sweep      many runs beside many commands, and two at a time
    make bench-gpu        the loops on a GPU, and CIFAR-10 beside airbench's figure

A round runs each command once, one after the other, so that other work on the machine slows both sides of a ratio. A
row is the median of the ratios of all rounds. The table is written to bench/<cases>.md and .json. The ratios are added
to bench/history.json; bench/history.md shows the last runs. A ratio above its limit ends with exit code 1.
"""

import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import history
import numpy as np
from idx import write
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).parent
DATA = Path(os.path.expanduser(os.environ.get("LAB_DATA", "~/.cache/lab")))
LAB, PYTHON = str(Path(sys.executable).with_name("lab")), sys.executable
SMALL_SET = 3_000  # images; 4 and 16 times as many beside it
FEWEST_ROUNDS, MINUTES = 3, 11  # a further round is only started if it ends within this time


@dataclass
class Run:
    """A command that has ended."""

    cpu: float  # seconds of the process and its children
    wall: float
    memory: int  # largest resident set of one process, KiB
    output: str
    results: list[dict]  # of the runs of lab that it left, in order

    @property
    def epoch(self) -> float:
        """The median epoch after the first, without its validation: of a script, or of lab's first run."""
        if not self.results:
            return statistics.median([float(x) for x in self.output.split()][1:])
        seconds = self.results[0]["seconds"]
        training = [e - v for e, v in zip(seconds["epochs"], seconds["validations"], strict=True)]
        return statistics.median(training[1:])


@dataclass
class Row:
    """A ratio of two figures out of a round's runs, and what it may be at most."""

    what: str
    above: Callable[[dict[str, Run]], float]
    below: Callable[[dict[str, Run]], float]
    at_most: float | None = None


def run(command: Sequence[str], tmp: Path) -> Run:
    logs = Path(tempfile.mkdtemp(dir=tmp))
    words = [word.replace("LOGS", str(logs)).replace("TMP", str(tmp)) for word in command]
    with open(logs / "out", "w+", encoding="utf-8") as out, open(logs / "err", "w+", encoding="utf-8") as err:
        start = time.monotonic()
        process = subprocess.Popen(words, stdout=out, stderr=err, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if process.returncode == 2:  # a mistake of whoever started it, which lab says in its last line
            sys.exit(err.read().strip().rpartition("\n")[2])
        if process.returncode:
            sys.exit(f"{' '.join(words)}\n{err.read()[-3000:]}")
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(logs.rglob("results.json"))]
        return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss, out.read(), results)


def train(*overrides: str) -> list[str]:
    return [LAB, "train", "trainer=cpu", "log_dir=LOGS", *overrides]


PLAIN = ("experiment=digits", "data.augment=null", "ema=null", "scheduler=constant", "optimizer.lr=0.001")
FASHION = (*PLAIN, "data=fashion_mnist")
MLP = ("net=mlp", "net.widths=[64,128,64]", "net.batch_norm=true", "data.batch_size=128")
SPLIT = "data.val_fraction=0.08333333"  # 55,000 + 5,000 of 60,000
LISTING = ("optimizer=sgd", "optimizer.lr=0.01", "data.batch_size=32", "data.val_fraction=0.001")
SHORT = ("trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
ONE_STEP = (*SHORT, "trainer.limit_train_batches=1", "trainer.max_epochs=1", "figures=false")
SCALES = (1, 4, 16)


def imports_of(*overrides: str) -> list[str]:
    """A command that measures the imports of a run of one step."""
    return [PYTHON, str(HERE / "imports.py"), "lab", *train(*overrides, *ONE_STEP)[1:]]


CPU_COMMANDS = {
    "import": [PYTHON, str(HERE / "imports.py"), "torch"],
    **{f"imports of {name}": imports_of(f"experiment={name}", "data.tiny=true")
       for name in ("digits", "language_id", "translate_emoji")},
    "help": [LAB, "train", "--help"],
    "cfg": [LAB, "train", "--cfg", "job", "experiment=digits"],
    "digits": train("experiment=digits", "trainer.max_epochs=3"),
    "2 processes": train("experiment=digits", "trainer.max_epochs=3", "trainer=ddp_cpu", "data.batch_size=16"),
    "mlp floor": [PYTHON, str(HERE / "floor.py"), "mlp", f"--root={DATA}", "--batch-size=128", "--epochs=5"],
    "mlp": train(*FASHION, *MLP, SPLIT, "trainer.max_epochs=10"),
    "lht": [PYTHON, str(HERE / "lht.py"), f"--root={DATA}", "--out=LOGS", "--epochs=1"],
    "cnn floor": [PYTHON, str(HERE / "floor.py"), "cnn", f"--root={DATA}", "--batch-size=64", "--steps=60",
                  "--epochs=3"],
    "cnn": train(*FASHION, "data.batch_size=64", "trainer.limit_train_batches=60", "trainer.max_epochs=3", *SHORT),
    "scale": train("-m", *FASHION, *MLP, f"data.root={','.join(f'TMP/{k}' for k in SCALES)}", "trainer.max_epochs=3"),
    "folder": train("-m", "experiment=image_folder", "data.root=TMP/images", "net=mlp", "net.widths=[16]",
                    "data.num_workers=0", "data.cache=false,true", "trainer.max_epochs=2"),
}  # fmt: skip


def scale(k: int, runs: dict[str, Run]) -> float:
    """Seconds of an epoch for each of `SMALL_SET` images, at k times as many."""
    return statistics.median(runs["scale"].results[SCALES.index(k)]["seconds"]["epochs"][1:]) / k


def import_seconds(name: str, runs: dict[str, Run]) -> float:
    return float(runs[name].output.splitlines()[-1])


def lht(runs: dict[str, Run]) -> float:
    """CPU-seconds of ten epochs, from a run of one: the other nine cost what it did."""
    return runs["lht"].cpu + 9 * float(runs["lht"].output.splitlines()[-1])


CPU_ROWS = [
    Row("CPU: `lab train --help` ÷ `import torch`", lambda r: r["help"].cpu, lambda r: r["import"].cpu, 0.25),
    Row("CPU: `--cfg job experiment=digits` ÷ the same", lambda r: r["cfg"].cpu, lambda r: r["import"].cpu, 0.25),
    *(Row(f"CPU: the imports of `experiment={name}` ÷ the same", partial(import_seconds, f"imports of {name}"),
          partial(import_seconds, "import"), at_most)
      for name, at_most in (("digits", 1.7), ("language_id", 1.9), ("translate_emoji", 1.9))),
    Row("keystroke to first step of `experiment=digits` ÷ the same",
        lambda r: r["digits"].results[0]["seconds"]["first_step"], lambda r: r["import"].wall, 2.0),
    Row("peak memory: `experiment=digits` ÷ the same", lambda r: r["digits"].memory, lambda r: r["import"].memory),
    Row("an epoch, MLP, batch 128: lab ÷ floor", lambda r: r["mlp"].epoch, lambda r: r["mlp floor"].epoch, 1.45),
    Row("an epoch, baseline CNN, batch 64: lab ÷ floor", lambda r: r["cnn"].epoch, lambda r: r["cnn floor"].epoch, 0.8),
    Row("CPU: whole process, MLP, 10 epochs: lab ÷ LHT's loop rebuilt", lambda r: r["mlp"].cpu, lht, 0.2),
    Row("time per image: 4 × the data ÷ 1 ×", partial(scale, 4), partial(scale, 1), 1.1),
    Row("time per image: 16 × the data ÷ 1 ×", partial(scale, 16), partial(scale, 1), 1.1),
    Row("an epoch: `trainer=ddp_cpu`, 2 processes ÷ 1", lambda r: r["2 processes"].epoch,
        lambda r: r["digits"].epoch),
    Row("an image folder's second epoch: `data.cache=true` ÷ false",
        lambda r: r["folder"].results[1]["seconds"]["epochs"][1],
        lambda r: r["folder"].results[0]["seconds"]["epochs"][1], 0.15),
]  # fmt: skip

ACCURACY_COMMANDS = {
    "listing": [PYTHON, str(HERE / "listing.py"), f"--root={DATA}", "--seed=SEED"],
    "listing in lab": train(*FASHION, *LISTING, "trainer.max_epochs=10", "seed=SEED"),
    "fast": train("experiment=fashion_mnist_fast", "seed=SEED"),
}
ACCURACY_ROWS = [
    Row("CPU: `experiment=fashion_mnist_fast` ÷ the article's listing", lambda r: r["fast"].cpu,
        lambda r: r["listing"].cpu, 0.20),
    Row("error: the same (at most 1: it is as accurate)", lambda r: 1 - test_acc(r["fast"]),
        lambda r: 1 - float(r["listing"].output.split()[-1]), 1.0),
    Row("CPU: the listing's net, data, batches and epochs: lab ÷ listing", lambda r: r["listing in lab"].cpu,
        lambda r: r["listing"].cpu),
]  # fmt: skip

SEVERAL = train("-m", "experiment=digits", "net=mlp", "seed=range(0,8)")
SWEEP_COMMANDS = {
    "8 runs": [*SEVERAL, "trainer.max_epochs=3"],
    "1 run": train("experiment=digits", "net=mlp", "seed=0", "trainer.max_epochs=3"),
    "1 at a time": [*SEVERAL, "trainer.max_epochs=15"],
    "2 at a time": [*SEVERAL, "trainer.max_epochs=15", "sweep.jobs=2"],
}
SWEEP_ROWS = [
    Row("CPU: `-m` over 8 runs of 3 epochs ÷ 8 commands", lambda r: r["8 runs"].cpu, lambda r: 8 * r["1 run"].cpu,
        0.35),
    Row("wall: 8 runs of 15 epochs, `sweep.jobs=2` ÷ 1", lambda r: r["2 at a time"].wall,
        lambda r: r["1 at a time"].wall, 0.65),
]  # fmt: skip

GPU = ("trainer=gpu", "trainer.precision=32-true")
GPU_COMMANDS = {
    name: [*command, "--device=cuda"] if "floor" in name else [*command, *GPU]
    for name, command in CPU_COMMANDS.items() if name in ("mlp floor", "mlp", "cnn floor", "cnn")
} | {"cifar10": train("experiment=cifar10_fast", "trainer=gpu", "seed=SEED")}  # fmt: skip
GPU_ROWS = [
    Row("an epoch, MLP, batch 128: lab ÷ floor", lambda r: r["mlp"].epoch, lambda r: r["mlp floor"].epoch),
    Row("an epoch, baseline CNN, batch 64: lab ÷ floor", lambda r: r["cnn"].epoch, lambda r: r["cnn floor"].epoch),
    Row("`cifar10_fast`, its epochs ÷ airbench's 3.83 s on an A100",
        lambda r: sum(r["cifar10"].results[0]["seconds"]["epochs"]), lambda r: 3.83),
    Row("`cifar10_fast`, error ÷ airbench's 0.06", lambda r: 1 - test_acc(r["cifar10"]), lambda r: 0.06, 1.0),
]  # fmt: skip


def test_acc(done: Run) -> float:
    return done.results[0]["test"]["test/acc"]


def prepare(tmp: Path) -> None:
    """Fashion-MNIST where it is not there yet, sets of noise of three sizes, and a folder of photographs."""
    run(train(*FASHION, "debug=two_batches"), tmp)
    for k in SCALES:
        write(tmp / str(k), k * SMALL_SET)
    write_photographs(tmp / "images", 2_000)


def write_photographs(root: Path, num: int) -> None:
    """Write 20 crops of scikit-learn's two photographs again and again, as JPEGs of about 60 kB in three folders.

    A picture of noise is decoded in half the time, and in an epoch of a few steps checkpoints and validation weigh
    more. The number at the end of a file makes it differ from its copies.
    """
    random, crops = np.random.default_rng(0), []
    for i in range(20):
        path = Path(find_spec("sklearn").origin).parent / "datasets/images" / ("china.jpg", "flower.jpg")[i % 2]
        with Image.open(path) as photograph:
            left, top = random.integers(0, photograph.width - 500), random.integers(0, photograph.height - 375)
            crops.append(io.BytesIO())
            photograph.crop((left, top, left + 500, top + 375)).save(crops[-1], "JPEG", quality=90)
    for i in range(num):
        path = root / "abc"[i % 3] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crops[i % 20].getvalue() + i.to_bytes(4, "big"))


def table(rows: Sequence[Row], rounds: Sequence[dict[str, Run]]) -> list[dict]:
    lines = []
    for row in rows:
        ratios = sorted(row.above(runs) / row.below(runs) for runs in rounds)
        above, below = (statistics.median(map(side, rounds)) for side in (row.above, row.below))
        line = {"what": row.what, "ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
        lines.append(line | {"at_most": row.at_most, "above": above, "below": below})
    return lines


def markdown(lines: Sequence[dict], machine: str) -> str:
    head = ["| what | ratio | least to most | at most | figures |", "|---|---|---|---|---|"]
    body = [
        f"| {x['what']} | **{x['ratio']:.3g}** | {x['least']:.3g} to {x['most']:.3g} | {x['at_most'] or ''} "
        f"| {x['above']:.4g} ÷ {x['below']:.4g} |"
        for x in lines
    ]
    return "\n".join([*head, *body, "", machine, ""])


def machine() -> str:
    """The processor and the versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "lightning", "hydra-core"))
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8").stdout.strip()


def hardware() -> str:
    return f"{machine()}; commit {commit()}."


def main() -> None:
    cases = sys.argv[1]
    commands, rows, num_rounds = {
        "cpu": (CPU_COMMANDS, CPU_ROWS, int(os.environ.get("ROUNDS", 5))),
        "accuracy": (ACCURACY_COMMANDS, ACCURACY_ROWS, 3),
        "sweep": (SWEEP_COMMANDS, SWEEP_ROWS, 3),
        "gpu": (GPU_COMMANDS, GPU_ROWS, 5),
    }[cases]
    tmp = Path(tempfile.mkdtemp(prefix="lab-bench-"))
    try:
        prepare(tmp)
        rounds = []
        start = time.monotonic()
        with tqdm(total=num_rounds * len(commands), disable=None) as bar:
            for seed in range(num_rounds):
                runs = {}
                for name, command in commands.items():
                    bar.set_description(name)
                    runs[name] = run([word.replace("SEED", str(seed)) for word in command], tmp)
                    bar.update()
                rounds.append(runs)
                lines = table(rows, rounds)
                medians = f"Medians of {len(rounds)} rounds, OMP_NUM_THREADS=1; seconds, KiB, shares. {hardware()}"
                text = report(cases, lines, medians)  # a round that fails loses no other
                if cases == "cpu" and is_time_over(time.monotonic() - start, len(rounds)):
                    break
    finally:
        shutil.rmtree(tmp)
    history.add(cases, lines, commit(), machine(), len(rounds))
    print(text)
    if above := [line["what"] for line in lines if line["at_most"] and line["ratio"] > line["at_most"]]:
        sys.exit("\n".join(f"above its limit: {what}" for what in above))


def is_time_over(seconds: float, num_rounds: int) -> bool:
    """Return whether another round would take longer than `MINUTES`."""
    return num_rounds >= FEWEST_ROUNDS and seconds * (num_rounds + 1) / num_rounds > 60 * MINUTES


def report(cases: str, lines: Sequence[dict], machine: str) -> str:
    """The table, which is written in both forms beside this file."""
    text = markdown(lines, machine)
    (HERE / f"{cases}.md").write_text(text, encoding="utf-8")
    (HERE / f"{cases}.json").write_text(
        json.dumps({"machine": machine, "rows": lines}, indent=2) + "\n", encoding="utf-8"
    )
    return text


if __name__ == "__main__":
    main()
