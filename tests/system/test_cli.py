"""The command line: what is answered at once, and what is said to a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import options

from lab.engine.config import compose


def test_bare_lab_shows_the_verbs(lab):
    result = lab()
    assert result.returncode == 0
    for verb in ("lab train", "lab test", "lab predict"):
        assert verb in result.stdout


def test_bare_train_lists_the_experiments(lab):
    result = lab("train")
    assert result.returncode == 2
    for experiment in options("experiment"):
        assert experiment in result.stderr
    assert "How well does the baseline CNN" in result.stderr


@pytest.mark.parametrize("verb", ["train", "tune", "test", "predict", "serve"])
def test_help(lab, verb):
    result = lab(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert f"lab {verb}" in result.stdout
    assert "trainer" in result.stdout


def test_hydra_shows_the_config(lab):
    result = lab("train", "experiment=digits", "net.hidden=7", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert "hidden: 7" in result.stdout
    assert lab("train", "experiment=digits", "--info", "defaults").returncode == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lab ", "train data tune test predict"),
        ("lab tr", "train"),
        ("lab train experiment=", "experiment=digits"),
        ("lab train experiment=digits net=", "net=cnn"),
        ("lab train experiment=digits net.", "net.hidden="),
        ("lab test ru", "run="),
    ],
)
def test_tab_completion(lab, line, expected):
    result = lab("-sc", "query=bash", env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))})
    assert expected in result.stdout, result.stderr
    assert "error" not in result.stderr.lower()


def test_tab_completion_installs(lab):
    script = lab("-sc", "install=bash").stdout
    assert "complete -o nospace -o default -F hydra_bash_completion lab" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "--help"],
        ["train", "--info"],
        ["train", "experiment=digits", "--cfg", "job"],
        ["train", "experiment=digits", "net=x"],
        ["train", "experiment=digits", "nett=cnn"],
        ["test", "run=nowhere"],
        ["-sc", "query=bash"],
    ],
    ids=" ".join,
)
def test_heavy_modules_are_not_imported_before_a_job(arguments):
    code = f"""
import sys
from lab.engine import cli
sys.argv = ["lab", *{arguments!r}]
try:
    cli.main()
except SystemExit:
    pass
heavy = {{"torch", "lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib", "pydantic"}} & set(sys.modules)
assert not heavy, heavy
"""
    line = {"COMP_LINE": "lab train experiment=digits net=", "COMP_POINT": "32"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | line)
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr, "nothing was answered"


BAD_COMMAND_LINES = {
    ("trian",): "unknown verb trian. Did you mean train?",
    ("train", "experiment=digts"): "unknown experiment digts. Did you mean digits?",
    ("train", "experiment=digits", "net=cn"): "unknown net cn. Did you mean cnn?",
    ("train", "experiment=digits", "nett=cnn"): "unknown key nett. Did you mean net?",
    (
        "train",
        "experiment=digits",
        "trainer.max_epoch=3",
    ): "unknown key max_epoch. Did you mean max_epochs? (in trainer)",
    ("train", "experiment=digits", "data.augment.flop=1"): "unknown argument flop. Did you mean flip?",
    ("train", "experiment=digits", "net=cnn,mlp"): "needs -m",
    ("train", "-m", "experiment=digits", "net=cnn,mpl"): "unknown net mpl. Did you mean mlp?",
    ("train", "experiment=digits", "a=[1"): "error: a=[1: ",
    ("train", "experiment=digits", "net=null"): "net=null: expected a net; leave it out, or choose one",
    ("train", "experiment=digits", "-m", "--info"): "--multirun, --cfg, --info: one at a time",
    ("tune", "experiment=digits", "lr.steps=9"): "lr.steps=9: should be greater than or equal to 20",
    ("tune", "experiment=digits", "find=momentum"): "find=momentum: should be 'lr' or 'batch_size'",
    ("tune", "experiment=digits", "lr.min=1", "lr.max=1"): "lr.min=1: expected less than lr.max=1",
    ("tune", "experiment=digits", "memory_gb=0"): "memory_gb=0: should be greater than 0",
    ("tune", "experiment=digits", "run=x"): "run=x: tune makes no run; remove run=",
    ("tune", "experiment=digits", "fnd=lr"): "unknown key fnd. Did you mean find?",
    ("tune", "-m", "experiment=digits", "seed=1,2"): "--multirun: tune takes one config",
    ("tune", "experiment=digits", "trainer=ddp_cpu"): "trainer: tune uses one process",
    ("train", "experiment=image_folder", "data.root="): "data.root= is empty. Is a variable of the shell unset?",
    ("train", "-m", "experiment=digits", "run=", "seed=1,2"): "run= is empty",
    ("predict", "run=r", "input="): "input= is empty",
    ("test", "run=''"): "run= is empty",
    ("test",): "error: run is required: run=FOLDER",
    ("test", "rn=x"): "unknown key rn. Did you mean run?",
    ("test", "run=nowhere"): "nowhere is not a finished run: the folder does not exist",
    ("predict", "run=nowhere"): "nowhere is not a finished run: the folder does not exist",
    ("train", "experiment=digits", "lr=0.1"): "unknown key lr. Did you mean optimizer.lr?",
    ("train", "experiment=digits", "epochs=3"): "unknown key epochs. Did you mean trainer.max_epochs?",
    ("train", "experiment=digits", "optimizer.rate=3"): "There are: betas, fused, lr. (in optimizer)",
    ("train", "experiment=digits", "sentiment"): "error: sentiment: expected KEY=VALUE, such as experiment=sentiment",
    ("train", "experiment=digits", "--lr", "0.1"): "error: --lr: unknown option; settings are KEY=VALUE",
    ("test", "latest"): "error: latest: expected KEY=VALUE, such as run=latest",
    (
        "train",
        "experiment=digits",
        "net=gru",
    ): "Recurrent requires it, and the data states no such fact",
}


@pytest.mark.parametrize("arguments", BAD_COMMAND_LINES, ids=" ".join)
def test_a_mistake_ends_in_one_line(lab, arguments, tmp_path):
    result = lab(*arguments)
    assert BAD_COMMAND_LINES[arguments] in result.stderr
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_all_mistakes_are_reported_at_once(lab, tmp_path):
    result = lab("train", "experiment=digits", "net=cn", "trainer.x=1", "data.batchsize=2")
    assert len(result.stderr.splitlines()) == 3
    result = lab(
        "train", "experiment=digits", "data.batch_size=abc", "optimizer.lr=abc", "+net.depth=2", "log_dir=/proc/x"
    )
    assert [line.split("=")[0].split(":")[1] for line in result.stderr.splitlines()] == [
        " data.batch_size", " net", " optimizer.lr", " log_dir",
    ], result.stderr  # fmt: skip
    assert result.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_checkout_uses_its_own_conf():
    assert Path(compose.__file__).parents[4] / "conf" == compose.CONF


def test_a_glob_is_a_sweep_over_all_options(lab, tmp_path):
    quick = ["data.tiny=true", "debug=two_batches", "trainer.enable_progress_bar=false"]
    result = lab("train", "-m", "experiment=digits", "scheduler=glob(c*,exclude=x)", *quick)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("logs/digits/*"))) == 1
