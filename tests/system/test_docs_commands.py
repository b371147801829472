"""Every command of README.md, README.zh-CN.md and docs/ has the effect that the page describes.

A command runs as it stands, on tiny data, in a folder with the files that the pages name. `RUN` and `OTHER` are
finished runs; `latest` is RUN. Identical commands run once.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONF, LAB
from effects import EFFECTS, Result, serves, typed
from omegaconf import OmegaConf
from pages import PAGES, ROOT, commands

from lab.data import tiny
from lab.engine import cli

BY_HAND = ("own-task.md",)  # runs/test_extending.py runs its commands
COMPOSED = {  # what is only composed, by a piece of the command: why, and the test that runs the like
    "trainer=gpu": "needs a GPU: make bench-gpu",
    "trainer=ddp ": "needs GPUs: test_ddp.py has it on the CPU",
    "trainer=ddp_cpu": "has two processes: test_ddp.py",
    "launcher=slurm": "needs SLURM: test_slurm.py",
    "net=torchvision_detection": "takes a minute: test_detection.py",
    "torchrun ": "has several processes: test_ddp.py, test_two_machines.py",
    "srun ": "needs SLURM: test_slurm.py",
    "format=aoti": "needs a C++ compiler and a minute: test_export.py",
}
SMALLER = {  # words with a smaller value in their place
    "trainer.max_epochs=60": "trainer.max_epochs=3",
    "cv=5": "cv=2",
    "cv=6": "cv=2",
    "seeds=3": "seeds=2",
    "data.image_size=96": "data.image_size=16",
}
ADDED = {"sweep=optuna": ["sweep.trials=2"]}
QUICK = ["data.tiny=true", "debug=two_batches", "figures=false", "trainer.enable_progress_bar=false"]


def is_last(command: str) -> bool:
    """Whether it exports: torch then has threads that no fork survives, so the sweeps come before."""
    return "export" in command or ".onnx" in command


ALL = [command for page in PAGES if page.name not in BY_HAND for command in commands(page)]
COMMANDS = sorted(dict.fromkeys(ALL), key=is_last)


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
        quick, small = f"{' '.join(QUICK)} trainer=cpu", "net.hidden=8 data.image_size=16"
        runs = set(re.findall(r"(\w+/(?:RUN|OTHER))\b", command))
        if "latest" in command:
            runs |= {"digits/RUN"}
        if command.startswith("lab runs"):
            runs |= {"digits/RUN", "digits/OTHER"}
        for run in sorted(runs):
            generates = "net.width=8 task.steps=2 data.image_size=16"
            net = {"digits/RUN": small, "digits/OTHER": "net=mlp", "generate_digits/RUN": generates}.get(run, "")
            experiment = run.partition("/")[0]
            kept(f"logs/{run}", f"train experiment={experiment} {net} run=logs/{run} {quick}")
        if "model.onnx" in command:
            kept("logs/digits/RUN/model.onnx", "export run=logs/digits/RUN")
        if "sweep.name=SWEEP" in command:
            kept(
                "logs/digits/SWEEP",
                f"train -m experiment=digits {small} seed=0,1 sweep.name=SWEEP {quick}",
            )
        shutil.copytree(tiny.image_folder(), tmp_path / "photos")
        if "=boxes" in command:
            from lab.data.box_files import write_tiny  # a modality that a fork may delete

            (tmp_path / "boxes").mkdir()
            write_tiny(tmp_path / "boxes")
        if re.search("audio|speech|google", command):
            from lab.data import tiny_audio

            shutil.copytree(tiny_audio.class_folder(), tmp_path / "recordings")
            shutil.copytree(tiny_audio.google_commands(), tmp_path / "speech_commands_v0.02")
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
    if any(word.startswith("run=") and word != "run=logs/mine" for word in words):
        return [*words, *([] if any("max_epochs" in word for word in words) else ["trainer.max_epochs=2"])]
    if any(word.startswith("sweep.name=SWEEP") for word in words):
        return words
    given = {word.partition("=")[0] for word in words}
    more = [word for word in QUICK if word.partition("=")[0] not in given]
    if "data.root" in given:
        more.remove("data.tiny=true")
    if "experiment=digits" in words:
        more += ["data.image_size=16", *(["net.hidden=8"] if not {"net", "net.hidden"} & given else [])]
    if any("generate" in word for word in words):
        more += ["net.width=8", *(["data.image_size=16"] if "experiment=generate_digits" in words else [])]
    return [*words, *more, *([] if "trainer" in given else ["trainer=cpu"])]


def composed(words: list[str], call, folder: Path) -> None:
    """Check that the config of a command's first job has its values, and that the sweep's settings exist."""
    of_sweep = [word for word in words if word.startswith(("sweep", "launcher"))]
    options = {"sweep": "grid", "launcher": "local"} | dict(word.split("=") for word in of_sweep if "." not in word)
    for group, _, key in (word.partition("=")[0].partition(".") for word in of_sweep):
        assert not key or key in OmegaConf.load(CONF / group / f"{options[group]}.yaml")
    words = [word for word in words if word not in of_sweep and word != "-m"]
    words = [re.sub(r"^([\w.]+=[^(\[{,]*),.*", r"\1", word) for word in words]  # the first of several values
    code, said = call([*words, "--cfg", "job"], folder)
    assert code == 0, said
    typed(words, OmegaConf.create(said))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_its_effect(command, prepared, call, tmp_path):
    program, *words = shlex.split(command)
    prepared(command)
    if any(piece in f"{command} " for piece in COMPOSED):
        nested = shlex.split(command.partition("--wrap ")[2])[0] if "--wrap" in command else command
        composed(shlex.split(nested.partition("lab ")[2]), call, tmp_path)
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


def test_there_is_something_to_run():
    assert len(COMMANDS) > 50


def test_what_is_only_composed_is_still_in_the_pages():
    assert [piece for piece in COMPOSED if not any(piece in f"{command} " for command in COMMANDS)] == []


def test_a_run_is_loaded_from_python(prepared, monkeypatch, tmp_path):
    prepared("lab test run=logs/digits/RUN")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/runs.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert (names["cfg"].net.hidden, names["task"].net(torch.zeros(2, 1, 16, 16)).shape) == (8, (2, 10))
