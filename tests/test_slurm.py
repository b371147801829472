"""On a real SLURM: a job of two processes that is warned of its end starts again by itself, and loses nothing."""

import os
import subprocess
import time

import pytest
from conftest import LAB

from lab import checkpoints


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def cluster():
    try:
        slurm("sinfo")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("SLURM does not run here; tests/slurm.sh starts it")


def wait_for(what, seconds):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.usefixtures("cluster")
def test_a_requeued_job_of_two_processes_ends_as_one_that_was_left_alone(lab, tmp_path):
    words = ["experiment=digits", "data.tiny=true", "net=mlp", "net.dropout=0.3", "trainer=ddp_cpu"]
    words += ["early_stopping=null", "trainer.max_epochs=120", "trainer.enable_progress_bar=false"]
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=1 --ntasks-per-node=2 --mem=6G --time=10 --requeue --open-mode=append\n"
        f"#SBATCH --signal=SIGUSR1@90 --output={tmp_path}/out\ncd {tmp_path}\nsrun {LAB} train {' '.join(words)}\n"
    )
    job = slurm("sbatch", "--parsable", str(script))
    folder = tmp_path / "logs/digits"
    wait_for(lambda: list(folder.glob("*/last.ckpt")), 90)
    slurm("scancel", "--signal=USR1", job)
    wait_for(lambda: job not in slurm("squeue", "-h", "-o", "%i").split(), 150)
    said = (tmp_path / "out").read_text()
    assert said.count("goes on with step") == 1, said
    (requeued,) = folder.iterdir()
    assert lab("train", *words, f"run={tmp_path}/alone", env=os.environ).returncode == 0
    one, other = (checkpoints.read(path / "last.ckpt") for path in (requeued, tmp_path / "alone"))
    assert all(value.equal(other["state_dict"][name]) for name, value in one["state_dict"].items())
    assert repr(one["optimizer_states"]) == repr(other["optimizer_states"])
    assert (requeued / "metrics.csv").read_text() == (tmp_path / "alone/metrics.csv").read_text()
