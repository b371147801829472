"""The environment of a process: ranks that were left behind, interactive jobs, modules in its folder."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from lab.engine.errors import UserError
from lab.engine.launch import environment, rendezvous

TORCHRUN = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "1", "GROUP_RANK": "0",
    "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NTASKS_PER_NODE": "2",
}  # fmt: skip


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


@pytest.fixture
def settled(monkeypatch):
    """The variables of an environment that stay, and the cluster that they describe, if any."""

    def settled(environ):
        for name in {*environment.RANKS, *environment.TASKS, *environment.SRUN, *environment.BATCH_ONLY, "ENVIRONMENT"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        environment.drop_stale_ranks()
        return {name for name in environ if name in os.environ}, rendezvous.cluster_environment()

    return settled


@pytest.mark.parametrize(
    ("environ", "left"),
    [
        ({"RANK": "1"}, set()),
        ({"LOCAL_RANK": "1", "NODE_RANK": "1"}, set()),
        (without(TORCHRUN, "TORCHELASTIC_RUN_ID"), set()),
        (without(TORCHRUN, "RANK"), set()),
        ({"TORCHELASTIC_RUN_ID": "7"}, set()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, set()),
        (without(SRUN, "SLURM_STEP_ID"), {"SLURM_JOB_ID"}),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_JOB_ID", "SLURM_STEP_ID"}),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "x"}, {"SLURM_JOB_ID", "SLURM_STEP_ID"}),
    ],
)
def test_ranks_that_were_left_behind_are_forgotten(settled, environ, left):
    assert settled(environ) == (left, None)


@pytest.mark.filterwarnings("ignore:The `srun` command is available")  # where SLURM is installed
@pytest.mark.parametrize("environ", [TORCHRUN, SRUN, SRUN | {"SLURM_JOB_NAME": "interactive"}])
def test_the_processes_of_torchrun_and_srun_know_their_ranks(settled, environ):
    left, cluster = settled(environ)
    assert left == environ.keys()
    assert (cluster.global_rank(), cluster.world_size()) in [(1, 2), (3, 4)]
    with pytest.raises(UserError, match="start a sweep directly"):
        rendezvous.refuse_multiple_processes("-m", "a sweep")


def test_what_lightning_refuses_of_srun_is_one_line(settled):
    with pytest.raises(UserError, match="error: srun: .* Use `--ntasks-per-node=4` instead"):
        settled(without(SRUN, "SLURM_NTASKS_PER_NODE"))


@pytest.mark.parametrize("name", [environment.LIFELINE, environment.RENDEZVOUS])
def test_what_lab_tells_its_own_processes_stays(settled, name):
    assert settled({"LOCAL_RANK": "1", "WORLD_SIZE": "2", name: "5"})[0] == {"LOCAL_RANK", "WORLD_SIZE", name}


@pytest.mark.parametrize(
    ("environ", "terminal", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, True, None),  # salloc
        ({"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "bash"}, False, None),  # lab train < /dev/null in it
        (SRUN, False, None),  # srun in salloc, or from the login node
        ({"SLURM_JOB_ID": "17", "ENVIRONMENT": "production"}, False, None),
        ({"SLURM_JOB_ID": "17", "ENVIRONMENT": "BATCH"}, True, None),  # a shell in a batch job, such as tmux
        ({"SLURM_JOB_ID": "17", "ENVIRONMENT": "BATCH"}, False, "17"),
        (SRUN | {"ENVIRONMENT": "BATCH"}, False, "17"),
        ({"SLURM_JOB_ID": "18", "SLURM_RESTART_COUNT": "1"}, False, "18"),
        ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}, False, "17_2"),
        ({"ENVIRONMENT": "BATCH"}, False, None),  # another scheduler's
    ],
)
def test_a_folder_follows_from_a_batch_job_alone(settled, monkeypatch, environ, terminal, job):
    settled(environ)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(closed=False, isatty=lambda: terminal))
    assert environment.slurm_job() == job


@pytest.mark.parametrize(
    ("text", "number"), {"": None, "1": 1, "4,2": 4, " 3 ": 3, "many": None, "0": None, "-1": None, ",1": None}.items()
)
def test_any_number_of_threads_that_openmp_allows_is_read(monkeypatch, text, number):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert environment.num_threads() == number
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment.num_threads() is None


def test_no_process_of_ours_imports_what_lies_in_its_folder(settled, monkeypatch, tmp_path):
    for name in ("calendar", "queue", "random", "selectors"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    modules = "import calendar, queue, random, selectors"
    python, *flags = environment.COMMAND[:-1]
    plain = without(os.environ, "PYTHONSAFEPATH")
    subprocess.run([python, *flags, modules], env=plain, check=True)
    settled({})
    subprocess.run([sys.executable, "-c", modules], env=os.environ, check=True)


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.iso88591"])  # C, where the last is not installed
def test_names_of_files_are_utf_8_in_any_locale(locale):
    code = "import sys; from lab.engine.launch.environment import use_utf8; use_utf8()"
    code += "; print(ascii(sys.argv[1]), chr(252))"
    environ = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, "Ünï/图"]
    done = subprocess.run(command, env=without(environ, "PYTHONIOENCODING"), capture_output=True, check=True)
    assert done.stdout.split()[0] == ascii("Ünï/图").encode()
    assert done.stdout.split()[1] in (rb"\xfc", b"\xfc")


def test_a_run_is_whole_whatever_was_left_behind(lab, tmp_path):
    strays = without(TORCHRUN, "TORCHELASTIC_RUN_ID") | {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_ID": "1"}
    result = lab("train", "experiment=digits", *TINY.split(), env=os.environ | strays | {"OMP_NUM_THREADS": "1,1"})
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "logs/digits").iterdir()
    assert not folder.name.startswith("slurm")
    assert {"metrics.csv", "results.json", "best.ckpt"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.*"))


def test_several_machines_are_for_torchrun_and_srun():
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2: a run on several machines needs torchrun or srun"):
        rendezvous.check_world_size(SimpleNamespace(num_nodes=2, world_size=4))


def test_a_trainer_of_another_number_of_processes_is_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="error: trainer: its world size is 2, but 1 processes were started"):
            rendezvous.check_world_size(SimpleNamespace(num_nodes=1, world_size=2))
    finally:
        torch.distributed.destroy_process_group()
