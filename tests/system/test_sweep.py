"""Sweeps: jobs that do not touch each other, and a search that loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import time

import optuna
import pytest
from conftest import CONF, LAB, TINY
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lab.engine.config.compose import compose_config
from lab.engine.config.instantiate import instantiate
from lab.engine.config.sweep_overrides import parse_overrides
from lab.engine.errors import UserError
from lab.engine.files import write_json
from lab.engine.launch import environment
from lab.engine.runs import checkpoints
from lab.sweep import main as sweep
from lab.sweep.grid import Grid
from lab.sweep.launcher import Job
from lab.sweep.pool import Pool
from lab.sweep.study import Study, distribution, open_storage

SWEEP = ["-m", "experiment=digits", *TINY.split()]


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """A callback that breaks the jobs of some seeds, each in its way."""
    (tmp_path / "faults.py").write_text(
        """
import os, signal
import lightning as L

class Fault(L.Callback):
    def on_train_start(self, trainer, task):
        match trainer.datamodule.seed:
            case 1:
                raise RuntimeError("it broke")
            case 3:
                bytearray(1 << 46)
            case 5:
                next(task.parameters()).data.fill_(float("nan"))
            case 7:
                os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    (tmp_path / "sitecustomize.py").write_text("from lab.engine.config import allow\nallow.MODULES += ('faults',)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("faults")
def test_a_job_that_breaks_does_not_touch_the_others_and_the_sweep_goes_on(lab, tmp_path, monkeypatch):
    words = [*SWEEP, "sweep.name=eight", "sweep.jobs=2"]
    result = lab("train", *words, "seed=range(0,8)", "+callbacks.fault={_target_: faults.Fault}")
    assert result.returncode == 1, result.stderr
    table = result.stdout.partition("job ")[2]
    for seed, why in {1: "it broke", 3: "MemoryError", 5: "the gradient is nan", 7: "killed by SIGKILL"}.items():
        (line,) = (line for line in table.splitlines() if f"seed={seed}" in line)
        assert "failed" in line
        assert why in line
    assert "4 finished, 4 failed" in table
    place = tmp_path / "logs/digits/eight"
    results = [json.loads((place / f"{n:03d}/results.json").read_text()) for n in (0, 2, 4, 6)]
    assert len({result["best"]["value"] for result in results}) > 1, "the jobs are not those of the seeds"
    assert not list(place.rglob("*.tmp"))

    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copy(place / "best.yaml", tmp_path / "conf/experiment/best_of_eight.yaml")
    monkeypatch.setattr("lab.engine.config.compose.CONF", tmp_path / "conf")
    cfg = compose_config("train", ["experiment=best_of_eight"])
    own = compose_config("train", ["experiment=digits", *TINY.split()])
    assert all(cfg[key] == own[key] for key in own if key not in ("name", "callbacks"))

    before = (place / "000/results.json").stat().st_mtime_ns
    again = lab("train", "-m", "experiment=digits", "sweep.name=eight", "sweep.jobs=2")
    assert "4 finished, 4 failed" in again.stdout, again.stderr
    assert (place / "000/results.json").stat().st_mtime_ns == before, "a finished run was run again"
    changed = lab("train", "-m", "experiment=digits", "sweep.name=eight", "seed=1,2")
    assert changed.returncode == 2
    assert "seed=1,2" in changed.stderr
    assert "choose another sweep.name" in changed.stderr


def test_a_killed_study_goes_on_and_has_exactly_its_trials(lab, tmp_path):
    words = [*SWEEP, "sweep=optuna", "sweep.trials=5", "sweep.name=study", "sweep.jobs=2", "net=mlp"]
    words += ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "net.widths=[8],[4]", "trainer.max_epochs=30"]
    place = tmp_path / "logs/digits/study"
    for _ in range(2):
        driver = subprocess.Popen([str(LAB), "train", *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
        there, end = len(list(place.glob("*/last.ckpt"))), time.monotonic() + 90
        while len(list(place.glob("*/last.ckpt"))) < there + 1 and time.monotonic() < end:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    result = lab("train", *words)
    assert result.returncode == 0, result.stderr
    study = optuna.load_study(study_name="study", storage=open_storage(f"journal:{place}/study.log"))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5
    assert len({str(trial.params) for trial in study.trials}) == 5
    for trial in study.trials:
        folder = place / f"{trial.number:03d}"
        assert json.loads((folder / "results.json").read_text())["best"]["value"] == trial.value
        assert checkpoints.read(folder / "last.ckpt")["epoch"] == 30
    assert "best: val/acc" in result.stdout
    assert (place / "history.png").stat().st_size > 10_000


def test_a_hopeless_trial_is_pruned(lab, tmp_path):
    result = lab(
        "train", *SWEEP, "sweep=optuna", "sweep.trials=4", "sweep.name=pruned", "sweep.sampler.seed=1",
        "sweep.pruner._target_=optuna.pruners.ThresholdPruner", "+sweep.pruner.lower=0.3",
        "+sweep.pruner.n_warmup_steps=8", "trainer.max_epochs=6", "net.widths=[64]", "optimizer.lr=choice(1e-9,0.03)",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    study = optuna.load_study(
        study_name="pruned", storage=open_storage(f"journal:{tmp_path}/logs/digits/pruned/study.log")
    )
    states = {str(trial.params["optimizer.lr"]): trial.state for trial in study.trials}
    assert states == {"1e-09": TrialState.PRUNED, "0.03": TrialState.COMPLETE}
    assert "pruned" in result.stdout


@pytest.mark.parametrize(
    ("word", "expected"),
    {
        "a=1,2,x": CategoricalDistribution([1, 2, "x"]),
        "a=null,0.5,'1'": CategoricalDistribution(["null", 0.5, "'1'"]),
        "a=choice(true,0.5)": CategoricalDistribution([True, 0.5]),
        "a=[1,2],[3]": CategoricalDistribution(["[1,2]", "[3]"]),
        "a=range(1,6,2)": IntDistribution(1, 5, step=2),
        "a=int(interval(1,8))": IntDistribution(1, 8),
        "a=interval(0.1,1)": FloatDistribution(0.1, 1.0),
        "a=tag(log,interval(1e-4,1e-1))": FloatDistribution(1e-4, 1e-1, log=True),
        "a=tag(log,int(interval(1,64)))": IntDistribution(1, 64, log=True),
    }.items(),
)  # fmt: skip
def test_the_space_is_hydras(word, expected):
    assert distribution(*parse_overrides([word])) == expected


def test_a_grid_refuses_what_has_no_values():
    with pytest.raises(UserError, match="sweep=optuna"):
        Grid(overrides=parse_overrides(["a=interval(0,1)"]), folder=None, monitor=None)


def test_a_key_is_varied_only_where_it_is_and_the_front_is_of_both_objectives(lab, tmp_path):
    words = [*(word for word in SWEEP if not word.startswith("net")), "sweep.jobs=2", "net=cnn,mlp"]
    words += ["net.widths=[4],[8]"]
    result = lab("train", *words, "sweep.name=grid")
    assert "3 finished" in result.stdout, result.stderr
    lines = [line for line in result.stdout.partition("job ")[2].splitlines() if "net=" in line]
    points = sorted(line.split(" s  ")[1] for line in lines)
    assert points == ["net=cnn", "net=mlp net.widths=[4]", "net=mlp net.widths=[8]"]
    words += ["sweep=optuna", "sweep.name=two", "sweep.sampler._target_=optuna.samplers.RandomSampler"]
    result = lab("train", *words, "sweep.trials=4", "sweep.objectives={parameters: min}", "sweep.sampler.seed=2")
    assert result.returncode == 0, result.stderr
    study = optuna.load_study(study_name="two", storage=open_storage(f"journal:{tmp_path}/logs/digits/two/study.log"))
    assert {trial.params["net"] for trial in study.trials} == {"cnn", "mlp"}
    for trial in study.trials:
        assert ("net.widths" in trial.params) == (trial.params["net"] == "mlp")
        results = json.loads((tmp_path / f"logs/digits/two/{trial.number:03d}/results.json").read_text())
        assert trial.values == [results["best"]["value"], results["parameters"]]
    assert result.stdout.count("best: val/acc") == len(study.best_trials)
    assert (tmp_path / "logs/digits/two/front.png").stat().st_size > 10_000

    again = lab("train", "-m", "experiment=digits", "sweep.name=two")
    assert "4 finished" in again.stdout, "the table forgets what was run before"


WRONG = {
    "sweep.jobs=0": "sweep.jobs=0: should be greater than 0",
    "sweep.jobs=two": "sweep.jobs=two: ",
    "optimizer.lr=interval(0,1)": "sweep=optuna searches an interval",
    "seed=1,2 launcher=slurm launcher.nodes=0": "launcher.nodes=0: should be greater than 0",
    "seed=1,2 launcher=slurm launcher.args=[job.sh]": "launcher.args=['job.sh']: ",
    "seed=1,2 launcher=slurm": "error: launcher=slurm: squeue was not found",
    "sweep=optuna": "no search space",
    "sweep=optuna optimizer.lr=tag(log,interval(0,1))": "error: optimizer.lr=tag(log,interval(0,1)): ",
    "sweep=optuna seed=1,2 sweep.storage=sqlite:///no/dir/x.db": "the study could not be opened (OperationalError",
    "sweep=optuna seed=1,2 sweep.objectives={beauty:max}": "sweep.objectives={'beauty': 'max'}: ",
    "sweep=optuna seed=1,2 sweep.objectives={seconds:min} sweep.pruner._target_=optuna.pruners.MedianPruner": "cannot be pruned",  # noqa: E501
    "sweep=optuna seed=1,2 sweep.sampler._target_=os.system": "a config may not call it",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_said_in_a_line_and_takes_no_name(words, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        sweep.main(["-m", "experiment=digits", "sweep.name=1", *words.split()])
    assert WRONG[words] in str(error.value)
    assert not list(tmp_path.glob("logs/digits/*"))


def test_a_sweep_s_folder_does_not_say_how_its_jobs_are_submitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs/digits/x").mkdir(parents=True)
    words = ["experiment=digits", "seed=1,2", "launcher=slurm", "launcher.args=['--output=/etc/passwd']"]
    (tmp_path / "logs/digits/x/sweep.json").write_text(json.dumps({"words": words}))
    assert sweep.folder_and_words(["experiment=digits", "sweep.name=x"])[1] == [
        "experiment=digits",
        "seed=1,2",
        "sweep.name=x",
    ]


def test_words_in_another_order_are_the_same_sweep_with_the_same_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = ["experiment=digits", "optimizer.lr=1e-1,1e-2", "seed=0,1", "sweep.name=x"]
    place, words = sweep.folder_and_words(began)
    write_json(place / "sweep.json", {"words": words})
    again = ["sweep.name=x", "seed=0,1", "experiment=digits", "optimizer.lr=1e-1,1e-2", "sweep.jobs=2"]
    assert sweep.folder_and_words(again) == (place, [*began, "sweep.jobs=2"])


def test_a_key_that_is_added_is_varied_as_any_other():
    search = Grid(overrides=parse_overrides(["+trainer.x=1,2", "seed=0"]), folder=None, monitor=None)
    assert search.varied == {"trainer.x"}


def test_a_combination_that_can_t_be_composed_is_a_job_of_its_own():
    words = ["experiment=digits", "net=mlp,cnn", "net.widths=[8]", "seed=0,1"]
    search = Grid(overrides=parse_overrides(words), folder=None, monitor=None)
    assert [task.overrides[1] for task in search.trials] == ["net=mlp", "net=mlp", "net=cnn", "net=cnn"]


def test_torchrun_does_not_start_sweeps(monkeypatch):
    for name in environment.TORCHRUN:
        monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match="start a sweep directly"):
        sweep.main(["-m", "experiment=digits", "seed=1,2"])


def test_a_trial_that_was_cut_short_while_it_was_asked_has_the_whole_space(tmp_path):
    words = parse_overrides(["experiment=digits", "seed=range(0,9)", "net=cnn,mlp"])
    arguments = {"overrides": words, "folder": tmp_path, "monitor": OmegaConf.create({"metric": "a", "mode": "max"})}
    sampler, pruner = ({"_target_": f"optuna.{n}"} for n in ("samplers.TPESampler", "pruners.NopPruner"))
    study = Study(trials=2, sampler=sampler, pruner=pruner, **arguments)
    study.study.ask()
    assert study.next().number == 0
    assert len(study.next().overrides) == 3
    assert study.next() is None
    assert all(len(trial.params) == 2 for trial in study.study.trials)


def test_a_job_has_its_share_of_the_machine_and_takes_all_it_started_with_it(tmp_path):
    def work(job):
        (tmp_path / f"{job.number}.cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
        subprocess.Popen(["sleep", "1000"])
        return 0

    pool = Pool(2, work, num_gpus=4)
    assert pool.gpus == [["0", "2"], ["1", "3"]]
    for number in range(2):
        pool.start(Job(number, [], tmp_path / str(number)))
    assert not pool.has_room()
    groups = [job.id for job in pool.running]
    assert {pool.wait(20).status, pool.wait(20).status} == {"finished"}
    shares = [set(json.loads((tmp_path / f"{number}.cores").read_text())) for number in range(2)]
    if len(os.sched_getaffinity(0)) > 1:
        assert not shares[0] & shares[1]
    time.sleep(0.1)
    states = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    left = [line for line in states.splitlines() if int(line.split()[0]) in groups and "Z" not in line]
    assert not left


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_study_whose_last_line_is_torn_goes_on_without_it(cut, tmp_path):
    url = f"journal:{tmp_path}/study.log"

    def study():
        return optuna.create_study(storage=open_storage(url), study_name="study", load_if_exists=True)

    def tried(study):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tried(study())
    log = tmp_path / "study.log"
    whole = log.read_bytes()
    log.write_bytes(whole[:-cut])
    tried(study())
    trials = study().trials
    assert len(trials) == 2
    assert trials[1].state.is_finished()
    assert log.read_bytes().startswith(whole[: whole[:-1].rfind(b"\n") + 1])


@pytest.mark.parametrize("line", [b"3\n", b"[]\n", b'{"op_code": 99}\n', b"\xff\n", bytes(100) + b"\n"])
def test_a_damaged_study_is_said_in_a_line(line, tmp_path):
    cfg = compose_config("sweep", ["experiment=digits", "sweep=optuna"])
    words = parse_overrides(["optimizer.lr=interval(0.1,1)"])

    def study():
        return instantiate(cfg.sweep)(overrides=words, folder=tmp_path, monitor=cfg.monitor)

    study()
    with open(tmp_path / "study.log", "ab") as file:
        file.write(line)
    with pytest.raises(UserError, match="the study could not be opened"):
        study()


@pytest.mark.parametrize("text", ["{", "3", '{"status": "finished"}', '{"status": "finished", "best": {"value": 1}}'])
def test_a_damaged_job_is_started_and_says_so_itself(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    assert sweep.finished_value(tmp_path) is None
