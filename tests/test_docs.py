"""Every command of README.md, README.zh-CN.md and docs/ has the effect that the page describes.

A command runs as it stands, on tiny data, in a folder with the files that the pages name. `RUN` and `OTHER` are finished
runs; `latest` is RUN. Identical commands run once.
"""

import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import forked
import httpx
import nbformat
import pytest
from conftest import CONF, LAB
from nbclient import NotebookClient
from omegaconf import OmegaConf

from lab import cli
from lab.data import tiny

ROOT = CONF.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
BY_HAND = ("own-task.md",)  # contracts/test_extending.py runs its commands
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPOSED = {  # what is only composed, by a piece of the command: why, and the test that runs the like
    "trainer=gpu": "needs a GPU: make bench-gpu",
    "trainer=ddp ": "needs GPUs: test_ddp.py has it on the CPU",
    "trainer=ddp_cpu": "has two processes: test_ddp.py",
    "launcher=slurm": "needs SLURM: test_slurm.py",
    "torchrun ": "has several processes: test_ddp.py, test_two_machines.py",
    "srun ": "needs SLURM: test_slurm.py",
    "format=aoti": "needs a C++ compiler and a minute: test_export.py",
}
SMALLER = {  # words with a smaller value in their place
    "trainer.max_epochs=60": "trainer.max_epochs=3",
    "cv=5": "cv=2",
    "seeds=3": "seeds=2",
    "data.image_size=96": "data.image_size=16",
}
ADDED = {"sweep=optuna": ["sweep.trials=2"]}
QUICK = ["data.tiny=true", "debug=two_batches", "figures=false", "trainer.enable_progress_bar=false"]


def commands(page: Path) -> list[str]:
    """The commands of a page, without their comments."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = chain.from_iterable(block.splitlines() for block in blocks if not block.startswith("$ "))
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [line for line in found if line and not line.startswith("python ")]


def is_last(command: str) -> bool:
    """Whether it exports: torch then has threads that no fork survives, so the sweeps come before."""
    return "export" in command or ".onnx" in command


ALL = [command for page in PAGES if page.name not in BY_HAND for command in commands(page)]
COMMANDS = sorted(dict.fromkeys(ALL), key=is_last)


@dataclass
class Result:
    words: list[str]
    code: int
    out: str
    folder: Path
    before: set[Path]

    def value(self, key: str) -> str | None:
        """The value of a word of the command."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{key}=")), None)

    def run(self) -> Path:
        """The folder of the run that the command names."""
        value = self.value("run")
        return self.folder / ("logs/digits/RUN" if value in (None, "latest") else value)

    def new(self) -> list[Path]:
        """The folders of the runs that the command made, below logs/."""
        return sorted(path.parent for path in self.folder.glob("logs/**/results.json") if path not in self.before)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def call(monkeypatch, capsys):
    """`lab WORDS…` in a folder, in this process."""

    def call(words: list[str], folder: Path) -> tuple[int, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [str(LAB), *words])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A folder that keeps what several commands need: a run is trained once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def prepared(store, tmp_path, call):
    """Make the runs and files that a command names."""

    def kept(name: str, *makes: str) -> None:
        """Make something in the store, and copy it to the command's folder."""
        if not (store / name).exists():
            for make in makes:
                code, said = call(shlex.split(make), store)
                assert code == 0, said
        if name.startswith("logs/digits/SWEEP"):
            shutil.rmtree(store / "logs/digits/SWEEP/001", ignore_errors=True)
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (store / name).is_dir() else shutil.copy2)(store / name, target)

    def prepare(command: str) -> None:
        quick = f"{' '.join(QUICK)} trainer=cpu"
        runs = set(re.findall(r"(\w+/(?:RUN|OTHER))\b", command))
        if "latest" in command:
            runs |= {"digits/RUN"}
        if command.startswith("lab runs"):
            runs |= {"digits/RUN", "digits/OTHER"}
        for run in sorted(runs):
            net = {"digits/RUN": "net.hidden=8 data.image_size=16", "digits/OTHER": "net=mlp"}.get(run, "")
            experiment = run.partition("/")[0]
            kept(f"logs/{run}", f"train experiment={experiment} {net} run=logs/{run} {quick}")
        if "model.onnx" in command:
            kept("logs/digits/RUN/model.onnx", "export run=logs/digits/RUN")
        if "sweep.name=SWEEP" in command:
            kept(
                "logs/digits/SWEEP",
                f"train -m experiment=digits net.hidden=8 data.image_size=16 seed=0,1 sweep.name=SWEEP {quick}",
            )
        shutil.copytree(tiny.image_folder(), tmp_path / "photos")
        rows = [(f"a {word} film number {i}", word) for i in range(20) for word in ("good", "bad")]
        for name, head in {"reviews": "text,label\n", "comments": "review,opinion\n", "noheader": ""}.items():
            (tmp_path / f"{name}.csv").write_text(head + "".join(f"{text},{label}\n" for text, label in rows))
        (tmp_path / "fra.txt").write_text("".join(f"the dog {i}\tle chien {i}\n" for i in range(60)))
        (tmp_path / "texts.txt").write_text("dog face\nchat noir\n")

    return prepare


def smaller(words: list[str]) -> list[str]:
    """The command with less work."""
    words = [SMALLER.get(word, word) for word in words]
    for word, more in ADDED.items():
        words += [w for w in more if word in words and not any(own.startswith("sweep.trials=") for own in words)]
    if words[0] == "explain":
        methods = [] if any(word.startswith("methods=") for word in words) else ["methods=[integrated_gradients]"]
        return [*words, *methods, "num_mistakes=1"]
    if words[0] == "tune":
        return [*words, "net=mlp", "data.tiny=true", "lr.steps=60", "batch_size.min=64", "trainer=cpu"]
    if words[0] != "train" or len(words) == 1 or {"--cfg", "--help"} & set(words):
        return words
    if (run := next((word for word in words if word.startswith("run=")), "run=logs/mine")) != "run=logs/mine":
        return [*words, *([] if any("max_epochs" in word for word in words) else ["trainer.max_epochs=2"])]
    if any(word.startswith("sweep.name=SWEEP") for word in words):
        return words
    given = {word.partition("=")[0] for word in words}
    more = [word for word in QUICK if word.partition("=")[0] not in given]
    if "data.root" in given:
        more.remove("data.tiny=true")
    if "experiment=digits" in words:
        more += ["data.image_size=16", *(["net.hidden=8"] if not {"net", "net.hidden"} & given else [])]
    return [*words, *more, *([] if "trainer" in given else ["trainer=cpu"])]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_its_effect(command, prepared, call, tmp_path):
    program, *words = shlex.split(command)
    prepared(command)
    if any(piece in f"{command} " for piece in COMPOSED):
        nested = shlex.split(command.partition("--wrap ")[2])[0] if "--wrap" in command else command
        words = [word for word in shlex.split(nested.partition("lab ")[2]) if word != "-m"]
        words = [re.sub(r"^([\w.]+=[^(\[{,]*),.*", r"\1", word) for word in words]  # the first of several values
        code, said = call([*words, "--cfg", "job"], tmp_path)
        assert code == 0, said
        typed(words, OmegaConf.create(said))
    elif program == "tensorboard":
        assert (tmp_path / words[-1]).name == "logs"  # test_tensorboard.py reads the files, test_browser.py the pages
    elif words[:1] == ["serve"]:
        serves([*words, "port=0"], tmp_path)
    else:
        assert program == "lab"
        before = set(tmp_path.glob("logs/**/results.json"))
        words = smaller(words)
        result = Result(words, *call(words, tmp_path), tmp_path, before)
        if words == ["train"]:
            assert (result.code, "digits" in result.out) == (2, True)
            return
        assert result.code == 0, result.out
        if "--help" in words or "--cfg" in words:
            assert "optimizer:" in result.out
        else:
            EFFECTS[words[0]](result)


def typed(words: list[str], cfg) -> None:
    """Check that a config has the values and options of a command."""
    for word in words:
        key, _, value = word.partition("=")
        if value and (CONF / key / f"{value}.yaml").exists() and key not in ("experiment", "debug"):
            target = OmegaConf.load(CONF / key / f"{value}.yaml").get("_target_")
            assert target is None or cfg[key]._target_ == target, word
        elif value and key in ("seed", "ema", "early_stopping") or re.match(r"(data|net|optimizer|trainer)\.\w+$", key):
            expected = OmegaConf.from_dotlist([word])
            wanted, found = OmegaConf.select(expected, key), OmegaConf.select(cfg, key)
            inside = OmegaConf.is_dict(wanted) and wanted.items() <= found.items()
            assert inside or found == wanted or str(found).endswith(value), word


def trained(result: Result) -> None:
    """Check the runs that a training made: how many, their status, their scores and their configs."""
    words = result.words
    if result.value("run") not in (None, "logs/mine"):
        epochs = int(result.value("trainer.max_epochs"))
        assert json.loads((result.run() / "stamp.json").read_text())["resumed"], "the run is not resumed"
        assert len(results(result.run())["seconds"]["epochs"]) == epochs - 1, "it had one"
        return
    if result.value("sweep.name") == "SWEEP":
        assert [folder.name for folder in result.new()] == ["001"], "the missing run alone is trained"
        return
    trials = result.value("sweep.trials")
    varied = [word for word in words if re.fullmatch(r"[\w.]+=[^\[{('\"]*,.*", word)] if "-m" in words else []
    repeats = int(result.value("seeds") or result.value("cv") or 1)
    number = int(trials) if trials else math.prod(word.count(",") + 1 for word in varied) * repeats
    runs = result.new()
    assert len(runs) == number, result.out
    for folder in runs:
        assert results(folder)["status"] == "finished"
        assert all(math.isfinite(value) for value in results(folder)["test"].values())
        if number == 1:
            typed([word for word in words if "sweep" not in word], OmegaConf.load(folder / "config.yaml"))
    if {"finetune", "warm_start"} & {word.partition("=")[0] for word in words}:
        assert "tensors are loaded from" in result.out
    if "cv" in (word.partition("=")[0] for word in words):
        assert table(runs[0].parent / "out_of_fold.csv")
    if "task.metrics" in " ".join(words):
        assert "test/auroc" in results(runs[0])["test"]


def evaluated(result: Result) -> None:
    test = results(result.run())["test"]
    shown = dict(re.findall(r"(test/\w+)\W+([\d.]+)", result.out))
    assert float(shown["test/acc"]) == pytest.approx(test["test/acc"], abs=1e-4)


def predicted(result: Result) -> None:
    number = len(list(result.folder.glob("photos/**/*.png"))) if result.value("input") == "photos" else 2
    output = result.folder / (result.value("output") or "predictions.csv")
    if output.name == "-":
        assert len(result.out.splitlines()) == number
    elif output.suffix == ".jsonl":
        assert len(output.read_text().splitlines()) == number
    else:
        assert [row["error"] for row in table(output)] == [""] * number


def exported(result: Result) -> None:
    name = "model.pt2" if result.value("format") == "torch_export" else "model.onnx"
    names = {name} | ({"model_int8.onnx"} if result.value("int8") else set())
    report = json.loads((result.run() / "export.json").read_text())
    assert names <= report.keys()
    assert all((result.run() / each).stat().st_size for each in names)


def explained(result: Result) -> None:
    report = json.loads((result.run() / "explain/report.json").read_text())
    assert report["methods"]["random"]
    assert all((result.run() / "explain" / each["picture"]).stat().st_size for each in report["samples"])


def reported(result: Result) -> None:
    several = sum(word.startswith("run=") for word in result.words) > 1
    path = result.folder / (result.value("output") or "comparison.html") if several else result.run() / "report.html"
    page = path.read_text()
    assert "digits/RUN" in page
    assert ("digits/OTHER" in page, "What differs" in page) == (several, several)


def listed(result: Result) -> None:
    words = result.words[1:]
    both = {"compare": True, "best": None, "rerun": None}.get(words[0] if words else "", "net=mlp" not in words)
    if "rerun" in words:
        assert "scores    the same" in result.out
    elif "best" in words:
        assert re.search(r"logs/digits/(RUN|OTHER)  val/loss [\d.]+", result.out)
    elif "latex" in words:
        assert "mlp" in result.out
        assert "\\\\" in result.out
    else:
        assert "digits/OTHER" in result.out
        assert ("digits/RUN" in result.out) == both


def tuned(result: Result) -> None:
    name = "batch_size" if result.value("find") else "lr"
    (path,) = result.folder.glob(f"logs/digits/tune/*/{name}.csv")
    assert len(table(path)) > 2
    assert re.search(rf"\w+\.{name}=[\d.e-]+", result.out)


def described(result: Result) -> None:
    assert re.search(r"^train +\d+ samples: ", result.out, re.MULTILINE), result.out


EFFECTS = {
    "train": trained, "test": evaluated, "predict": predicted, "export": exported, "explain": explained,
    "report": reported, "runs": listed, "tune": tuned, "data": described,
}  # fmt: skip


def serves(words: list[str], folder: Path) -> None:
    """Start a server, check its answer, and stop it with Ctrl-C."""
    out = folder / "out"
    arguments = ([str(LAB), *words], folder, dict(os.environ), str(out), str(folder / "err"))
    process = forked.SERVER.Process(target=forked.work, args=arguments)
    process.start()
    try:
        end = time.monotonic() + 60
        while not (url := re.search(r"http://\S+", out.read_text() if out.exists() else "")):
            assert process.is_alive(), (folder / "err").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        with httpx.Client(base_url=url[0], trust_env=False, timeout=30) as client:
            picture = next(folder.glob("photos/**/*.png"))
            answer = client.post("/predict", files={"file": picture.read_bytes()})
            assert answer.status_code == 200, answer.text
            assert "image" in client.get("/health").text
            assert "<html" in client.get("/").text
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    assert process.exitcode == 130


def test_there_is_something_to_run():
    assert len(COMMANDS) > 50
    assert NOTEBOOKS


def test_what_is_only_composed_is_still_in_the_pages():
    assert [piece for piece in COMPOSED if not any(piece in f"{command} " for command in COMMANDS)] == []


def test_the_chinese_readme_has_the_same_commands_and_code():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert commands(ROOT / "README.md") == commands(ROOT / "README.zh-CN.md")
    code = [re.findall(r"`[^`\n]+`", text) for text in (english, chinese)]
    assert sorted(set(code[0])) == sorted(set(code[1]))
    numbers = [sorted(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


def test_pages_are_short():
    for page in PAGES:
        most = 120 if page.parent == ROOT else 150
        assert len(page.read_text(encoding="utf-8").splitlines()) <= most, page.name


def test_pictures_are_small():
    pictures = [*(ROOT / "docs").rglob("*.png")]
    assert pictures
    assert sum(path.stat().st_size for path in pictures) < 1_000_000


def targets(page: Path) -> Iterator[Path]:
    """The files that a page links to or names; a heading of a link is checked here."""
    text = page.read_text(encoding="utf-8")
    for path, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = page.parent / path if path else page
        yield target
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, heading
    for path in re.findall(r"`((?:src/lab|conf|tests|notebooks|docs|bench)/[\w/.-]+)`", text):
        yield ROOT / path


@pytest.mark.parametrize("page", [*PAGES, ROOT / "AGENTS.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    moved = (ROOT / "src/lab/engine").exists()  # the pages describe the layout with engine/ and verbs/
    missing = [path for path in targets(page) if not path.exists()]
    assert [path for path in missing if moved or not re.search("lab/(engine|verbs|runs)/", str(path))] == []


def test_the_recipes_of_the_readme_are_those_of_the_pages(lab_in, tmp_path):
    """The experiment composes. Each line of code is in the pages that are executed."""
    recipes = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    pages = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("extending", "own-task"))
    for part in recipes.split("+++ ")[1:]:
        head, *lines = part.splitlines()
        name, lines = head.split()[0], [line.removeprefix("+") for line in lines]
        if name.endswith(".py"):
            assert [line for line in lines if line not in pages.splitlines()] == [], name
        else:
            path = tmp_path / "mylab" / name
            path.parent.mkdir(parents=True)
            path.write_text("\n".join(lines))
    (tmp_path / "mylab/__init__.py").touch()
    (tmp_path / "mylab-0.1.dist-info").mkdir()
    (tmp_path / "mylab-0.1.dist-info/entry_points.txt").write_text("[lab.packages]\nmylab = mylab\n")
    result = lab_in(tmp_path, "train", f"experiment={path.stem}", "--cfg", "job")
    assert "hidden: 256" in result.stdout, result.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_its_pictures(notebook):
    content = nbformat.read(notebook, as_version=4)
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "committed without its pictures"
    NotebookClient(content, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    assert not [o.text for c in content.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
