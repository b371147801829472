"""Every file in conf/ is run; every experiment's numbers are what they were; a run learns."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import CONF, fitting, options
from steps import step_losses

from lab import train
from lab.engine.config.compose import compose_config
from lab.engine.config.instantiate import instantiate
from lab.engine.errors import UserError

GOLDEN = Path(__file__).with_name("golden.json")
NEEDS_GPU = {"trainer": {"gpu", "ddp"}}
NEEDS_EXTRA = {"logger": {"wandb", "mlflow"}}
TOO_SLOW = {"net": {"torchvision_detection"}}  # test_detection.py
NEEDS_MORE = {  # test_pretrained.py and test_audio_nets.py run them
    "net": {
        "sentence_encoder": "net: expected an encoder",
        "audio_encoder": "net: expected an encoder: set net.weights",  # digits have none
    }
}
TWO_PROCESSES = {"trainer": {"ddp_cpu"}}  # test_ddp.py
OPTIONS = [
    (group.name, option)
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "experiment")
    for option in options(group.name)
]


def test_every_file_is_accounted_for():
    configs = {path.stem for path in CONF.glob("*.yaml")}
    assert configs == {
        "_hydra", "train", "sweep", "tune", "data", "test", "predict", "explain", "export", "serve"
    }  # fmt: skip
    assert len(OPTIONS) + len(options("experiment")) == len(list(CONF.rglob("*.yaml"))) - len(configs)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_runs(compose, trained, group, option):
    experiment = fitting(f"{group}={option}") if group in ("data", "net", "task") else "experiment=digits"
    plain = [experiment, "data.tiny=true", "debug=two_batches"]
    overrides = [*plain, f"{group}={option}"]
    if group in ("sweep", "launcher"):  # test_sweep.py and test_slurm.py run them
        assert callable(instantiate(compose_config("sweep", overrides)[group]))
    elif option in TWO_PROCESSES.get(group, ()):
        assert compose(*overrides).trainer.devices == 2
    elif option in NEEDS_EXTRA.get(group, ()):
        with pytest.raises(UserError, match=f"error: logger: .*{option}.* not met"):
            train.main(compose(*overrides))
    elif option in TOO_SLOW.get(group, ()):
        assert compose(*overrides)[group]._target_
    elif option in NEEDS_MORE.get(group, ()):
        with pytest.raises(UserError, match=f"error: {NEEDS_MORE[group][option]}"):
            train.main(compose(*overrides))
    elif option in NEEDS_GPU.get(group, ()) and not torch.cuda.is_available():
        with pytest.raises(UserError, match="No supported gpu backend found"):
            train.main(compose(*overrides))
    elif compose(*overrides) != compose(*plain):  # the next test runs the configs of experiments
        assert json.loads((trained(*overrides) / "results.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_runs_and_says_what_it_is_for(trained, experiment):
    comments = [line for line in (CONF / f"experiment/{experiment}.yaml").read_text().splitlines() if line[:2] == "# "]
    assert comments[0] == "# @package _global_"
    assert comments[1].count("?") == 1, "the first comment asks the question"
    folder = trained(f"experiment={experiment}", "data.tiny=true", "debug=two_batches")
    results = json.loads((folder / "results.json").read_text())
    monitored = results["best"]["metric"]
    assert math.isfinite(results["best"]["value"])
    assert math.isfinite(results["best"]["metrics"][monitored])
    assert math.isfinite(results["test"][monitored.replace("val/", "test/")])


@pytest.mark.parametrize("experiment", options("experiment"))
def test_the_first_losses_are_golden(compose, experiment, tmp_path, request):
    """Rounding on another processor moves a loss by some 1e-6; a bug moves it by more than 1e-4."""
    overrides = [f"experiment={experiment}", "data.tiny=true", "trainer.precision=32-true"]
    losses = step_losses(compose(*overrides), 5, tmp_path / "run")
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(json.dumps(dict(sorted((golden | {experiment: losses}).items())), indent=2) + "\n")
    else:
        assert losses == pytest.approx(golden[experiment], rel=1e-4)


BLOBS = ("data.tiny=true", "data.augment=null", "data.batch_size=16")  # place is class: no flip


@pytest.mark.parametrize(
    ("overrides", "floor"),
    [
        (["experiment=digits", "trainer.max_epochs=3"], 0.93),
        (["experiment=fashion_mnist", "net=resnet9", *BLOBS], 0.9),
        (["experiment=fashion_mnist_fast", "net=fast_cnn", *BLOBS], 0.9),
        (["experiment=cifar10_fast", "net=airbench", *BLOBS], 0.9),
        (["experiment=image_folder", "data.tiny=true", "data.augment=null", "data.batch_size=8"], 0.9),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_short_run_learns(trained, overrides, floor):
    results = json.loads((trained(*overrides) / "results.json").read_text())
    assert results["test"]["test/acc"] > floor
