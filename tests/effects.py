"""The effects of lab's commands: files, values in `results.json`, lines of output."""

import json
import math
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import forked
import httpx
import pytest
from conftest import CONF, LAB
from omegaconf import OmegaConf
from tables import read_rows


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


def typed(words: list[str], cfg) -> None:
    """Check that a config has the values and options of a command."""
    for word in words:
        key, _, value = word.partition("=")
        if value and (CONF / key / f"{value}.yaml").exists() and key not in ("experiment", "debug"):
            target = OmegaConf.load(CONF / key / f"{value}.yaml").get("_target_")
            assert target is None or cfg[key]._target_ == target, word
        elif value and re.fullmatch(r"seed|ema|early_stopping|(data|net|optimizer|trainer)\.\w+", key):
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
        assert read_rows(runs[0].parent / "out_of_fold.csv")
    if "task.metrics" in " ".join(words):
        assert "test/auroc" in results(runs[0])["test"]


def evaluated(result: Result) -> None:
    test = results(result.run())["test"]
    shown = dict(re.findall(r"(test/\w+)\W+([\d.]+)", result.out))
    name = "test/acc" if "test/acc" in test else "test/loss"
    assert float(shown[name]) == pytest.approx(test[name], abs=1e-4)


def predicted(result: Result) -> None:
    number = len(list(result.folder.glob("photos/**/*.png"))) if result.value("input") == "photos" else 2
    output = result.folder / (result.value("output") or "predictions.csv")
    if result.value("num"):
        number = int(result.value("num"))
        assert len(list(output.glob("0*.png"))) == number
        assert (output / "sheet.png").exists()
        output /= "predictions.csv"
    if output.name == "-":
        assert len(result.out.splitlines()) == number
    elif output.suffix == ".jsonl":
        assert len(output.read_text().splitlines()) == number
    else:
        assert [row["error"] for row in read_rows(output)] == [""] * number


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
    assert ("digits/OTHER" in page, "Differences" in page) == (several, several)


def listed(result: Result) -> None:
    words = result.words[1:]
    both = {"compare": True, "best": None, "rerun": None}.get(words[0] if words else "", "net=mlp" not in words)
    if "rerun" in words:
        assert "scores    the same" in result.out
    elif words[:1] == ["best"]:
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
    assert len(read_rows(path)) > 2
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
            is_generator = "generate" in " ".join(words)
            files = {"label": b"3"} if is_generator else {"file": picture.read_bytes()}
            answer = client.post("/predict", files=files)
            assert answer.status_code == 200, answer.text
            assert "image" in client.get("/health").text
            assert "<html" in client.get("/").text
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    assert process.exitcode == 130
