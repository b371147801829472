"""On a real SLURM: what it starts again goes on and loses nothing; runs over two nodes, and sweeps of its jobs."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from conftest import LAB, TINY
from optuna.trial import TrialState

from lab.engine.lock import is_held
from lab.engine.runs import checkpoints
from lab.sweep.study import open_storage

SWEEP = [str(LAB), "train", "-m", "experiment=digits", *TINY.split(), "sweep.name=x", "launcher=slurm"]
LONG = "trainer.max_epochs=1000"  # some seconds of training, of an idle machine too


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def nodes():
    """How many SLURM has."""
    try:
        return int(slurm("sinfo", "--noheader", "--responding", "--format=%D"))
    except (OSError, subprocess.CalledProcessError, ValueError):
        pytest.skip("SLURM does not run here; tests/system/slurm.sh starts it")


def queue(tmp_path: Path) -> dict[str, str]:
    """The numbers of SLURM's jobs, by the names of their folders below a path."""
    lines = [line.split(" ", 2) for line in slurm("squeue", "-h", "-o", "%i %j").splitlines()]
    return {name: number for number, name, *place in lines if place and place[0].startswith(str(tmp_path))}


def wait_for(what, seconds):
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return result


def submit(tmp_path: Path, command: list[str], **options: int) -> str:
    """A job that prints to `out`; returns its number."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    own = ["--parsable", "--requeue", "--open-mode=append", "--signal=SIGUSR1@90", f"--output={tmp_path}/out"]
    return slurm("sbatch", *own, f"--chdir={tmp_path}", "--mem=4G", *flags, "--wrap", shlex.join(["srun", *command]))


def ended(job: str) -> bool:
    return job not in slurm("squeue", "-h", "-o", "%i").split()


@pytest.mark.usefixtures("nodes")
def test_a_requeued_job_of_two_processes_ends_as_one_that_was_left_alone(lab, tmp_path):
    words = ["experiment=digits", "data.tiny=true", "net=mlp", "net.dropout=0.3", "trainer=ddp_cpu"]
    words += ["early_stopping=null", "trainer.max_epochs=120", "trainer.enable_progress_bar=false"]
    job = submit(tmp_path, [str(LAB), "train", *words], nodes=1, ntasks_per_node=2)
    folder = tmp_path / "logs/digits"
    wait_for(lambda: list(folder.glob("*/last.ckpt")), 200)
    slurm("scancel", "--signal=USR1", job)
    wait_for(lambda: ended(job), 300)
    said = (tmp_path / "out").read_text()
    assert said.count("resumes at step") == 1, said
    (requeued,) = folder.iterdir()
    assert lab("train", *words, f"run={tmp_path}/alone", env=os.environ).returncode == 0
    one, other = (checkpoints.read(path / "last.ckpt") for path in (requeued, tmp_path / "alone"))
    assert all(value.equal(other["state_dict"][name]) for name, value in one["state_dict"].items())
    assert repr(one["optimizer_states"]) == repr(other["optimizer_states"])
    assert (requeued / "metrics.csv").read_text() == (tmp_path / "alone/metrics.csv").read_text()


def test_a_run_over_two_nodes_has_the_metrics_of_one_machine(nodes, lab, tmp_path):
    if nodes < 2:
        pytest.skip("this SLURM has one node")
    words = ["experiment=digits", *TINY.split(), "net.dropout=0.3", "trainer=ddp_cpu", "trainer.max_epochs=3"]
    two = [str(LAB), "train", *words, "trainer.devices=1", "trainer.num_nodes=2"]
    job = submit(tmp_path, two, nodes=2, ntasks_per_node=1)
    wait_for(lambda: ended(job), 300)
    said = (tmp_path / "out").read_text()
    assert said.count("test/acc ") == 1, said
    (folder,) = (tmp_path / "logs/digits").iterdir()
    assert lab("train", *words, f"run={tmp_path}/alone").returncode == 0
    assert (folder / "metrics.csv").read_text() == (tmp_path / "alone/metrics.csv").read_text()
    one, other = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "alone"))
    assert one["status"] == "finished"
    assert one["test"] == other["test"]


@pytest.mark.usefixtures("nodes")
def test_a_sweeps_jobs_go_on_without_its_process_and_the_next_takes_them_over(tmp_path):
    command = [*SWEEP, "seed=range(0,4)", "sweep.jobs=4", "launcher.mem=2G", LONG]
    driver = subprocess.Popen(command, cwd=tmp_path)
    wait_for(lambda: len(queue(tmp_path)) == 4, 100)
    driver.kill()
    driver.wait()
    jobs = queue(tmp_path)
    assert len(jobs) == 4
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: is_held(tmp_path / "logs/digits/x"), 200)  # it has looked at the queue
        wait_for(lambda: (tmp_path / "logs/digits/x/003/last.ckpt").exists(), 200)
        assert queue(tmp_path).items() <= jobs.items(), "a job was submitted twice"
        slurm("scancel", "--signal=KILL", jobs["003"])
        said = driver.communicate(timeout=300)[0]
    assert driver.returncode == 1
    assert "3 finished, 1 failed" in said
    assert "seed=3  cancelled, or killed by SLURM" in said
    for number in range(3):
        assert (tmp_path / f"logs/digits/x/00{number}.log").read_text().count("test/acc ") == 1
    assert not queue(tmp_path)


@pytest.mark.usefixtures("nodes")
def test_a_stopped_sweep_s_jobs_save_and_go_on_and_one_that_can_t_run_says_why(tmp_path):
    def start():
        command = [*SWEEP, "seed=0,1", "trainer.max_epochs=1000", "launcher.mem=2G", "sweep.jobs=2"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)

    with start() as driver:
        wait_for(lambda: len(list(tmp_path.glob("logs/digits/x/*/last.ckpt"))) == 2, 200)
        driver.send_signal(signal.SIGINT)
        said = driver.communicate(timeout=100)[0]
    assert driver.returncode == 130
    assert "launcher=slurm" in said.partition("resume with: ")[2]
    assert not queue(tmp_path)
    assert json.loads((tmp_path / "logs/digits/x/000/results.json").read_text())["status"] == "interrupted"
    (tmp_path / "logs/digits/x/001/data.json").write_text(json.dumps({"fingerprint": "another"}))
    with start() as driver:
        said = driver.communicate(timeout=300)[0]
    assert "1 finished, 1 failed" in said
    assert "has changed since" in said
    assert "resumes at step" in (tmp_path / "logs/digits/x/000.log").read_text()


@pytest.mark.usefixtures("nodes")
def test_a_study_s_trials_are_jobs_of_two_processes_and_are_pruned(tmp_path):
    command = [
        *SWEEP, "sweep=optuna", "sweep.trials=4", "sweep.sampler.seed=1", "optimizer.lr=choice(1e-9,0.03)",
        "sweep.pruner._target_=optuna.pruners.ThresholdPruner", "+sweep.pruner.lower=0.3", "sweep.jobs=2",
        "+sweep.pruner.n_warmup_steps=8", "trainer.max_epochs=6", "net.widths=[64]",
        "trainer=ddp_cpu", "data.batch_size=32", "launcher.ntasks_per_node=2", "launcher.mem=4G",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    storage = open_storage(f"journal:{tmp_path}/logs/digits/x/study.log")
    trials = optuna.load_study(study_name="x", storage=storage).trials
    states = {str(trial.params["optimizer.lr"]): trial.state for trial in trials}
    assert states == {"1e-09": TrialState.PRUNED, "0.03": TrialState.COMPLETE}
    assert "1 × cpu" not in (tmp_path / "logs/digits/x/000.log").read_text()


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("where", [["launcher=local"], ["launcher=slurm", "launcher.mem=2G"]], ids=["local", "slurm"])
def test_a_sweep_in_a_job_that_is_warned_of_its_end_goes_on_in_the_same_folder(where, tmp_path):
    job = submit(tmp_path, [str(LAB), "train", "-m", "experiment=digits", *TINY.split(), "seed=0,1", LONG, *where])
    wait_for(lambda: list(tmp_path.glob("logs/digits/*/000/last.ckpt")), 200)
    slurm("scancel", "--signal=USR1", job)
    wait_for(lambda: ended(job), 300)
    said = (tmp_path / "out").read_text()
    assert "SLURM starts it again" in said
    assert "2 finished" in said
    (place,) = tmp_path.glob("logs/digits/*")
    log = (place / "000.log").read_text()
    assert ("resumes at step" in log) == (where == ["launcher=local"]), "SLURM's jobs go on without the sweep's process"
    assert log.count("test/acc ") == 1
