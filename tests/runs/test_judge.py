"""A finished run that teaches another: a task of a fork learns the teacher's logits."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import PROOFS
from resuming import lab_train, outcome, stopped
from resuming import resume as resumed
from torch import nn

from lab import runs
from lab.engine.config import user_paths
from lab.engine.config.allow import read_config
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides, resolve_latest
from lab.engine.errors import UserError
from lab.engine.runs import checkpoints
from lab.engine.training.lightning_quirks import filter_warnings
from lab.runs import check, judges, resume
from lab.runs.finished import load_task
from lab.runs.open import Run
from lab.tasks import judge as judge_module
from lab.tasks.judge import Judge
from lab.testing.tasks import same
from lab.train import prepare


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The package with the task `proofs.distillation.Distillation`."""
    monkeypatch.syspath_prepend(PROOFS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A teacher, with other images than `wide`, and a student of it; not to be changed."""
    place = tmp_path_factory.mktemp("runs")
    lab_train(f"run={place}/teacher", "trainer.max_epochs=2", "net.widths=[16]")
    return place


@pytest.fixture
def teacher(finished, tmp_path):
    return shutil.copytree(finished / "teacher", tmp_path / "teacher")


def words(teacher):
    return "task._target_=proofs.distillation.Distillation", f"+task.teacher={teacher}", "monitor.metric=val/loss"


MIN = "monitor.mode=min"


def student(teacher, *more):
    return lab_train(*words(teacher), MIN, *more)


def test_a_student_resumes_bitwise_and_its_checkpoint_is_its_net_alone(teacher, tmp_path):
    more = ("trainer.max_epochs=2", "ema=0.9")
    student(teacher, *more, f"run={tmp_path}/whole")
    stopped(5, 9, *words(teacher), MIN, *more, f"run={tmp_path}/cut")
    resumed(tmp_path / "cut")
    for part, other in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"), strict=True):
        assert same(part, other)
    stamp = json.loads((tmp_path / "whole/stamp.json").read_text())
    assert stamp["judges"] == {"task.teacher": checkpoints.stored_digest(teacher / "best.ckpt")}
    assert (teacher / "best.ckpt").read_bytes()[-64:].decode() == stamp["judges"]["task.teacher"]
    weights = checkpoints.read(tmp_path / "whole/best.ckpt")["state_dict"]
    assert weights
    assert all(name.startswith("net.") for name in weights)

    _, data, task = runs.load(tmp_path / "whole")
    data.setup()
    (batch,) = [data.on_after_batch_transfer(data.splits["test"].__getitems__(range(len(data.splits["test"]))))]
    expected = task.step(batch, "test").loss.item()
    assert json.loads((tmp_path / "whole/results.json").read_text())["test"]["test/loss"] == pytest.approx(expected)

    (teacher / "best.ckpt").write_bytes((tmp_path / "whole/best.ckpt").read_bytes())  # another run's
    _, _, again = runs.load(tmp_path / "whole")
    assert task(batch).equal(again(batch)), "the net answers without its teacher"
    with pytest.raises(UserError, match="teacher: its weights have changed since the run was started") as error:
        again.step(batch, "test")
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match="task.teacher=.*weights have changed"):
        resumed(tmp_path / "whole", "trainer.max_epochs=3")
    shutil.move(teacher, tmp_path / "moved")
    with pytest.raises(UserError, match="task.teacher: .*/teacher is not a finished run: the folder does not exist"):
        resumed(tmp_path / "whole", "trainer.max_epochs=3")


def test_a_teacher_may_move_and_the_run_be_resumed_from_anywhere(finished, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(finished / "teacher", tmp_path / "logs/teacher")
    monkeypatch.chdir(tmp_path)
    student("logs/teacher", "trainer.max_epochs=1", "run=student")
    assert read_config(tmp_path / "student").task.teacher == f"{tmp_path}/logs/teacher"
    monkeypatch.chdir(tmp_path / "elsewhere")
    cfg = compose_config("train", add_run_overrides(["run=../student", "trainer.max_epochs=2"]))
    merged, changes = resume.merge_config(cfg, Path("../student"))
    assert merged.task.teacher == f"{tmp_path}/logs/teacher"
    assert changes == {"trainer.max_epochs": 2}
    shutil.move(tmp_path / "logs/teacher", tmp_path / "elsewhere/moved")
    resumed("../student", "trainer.max_epochs=2", "++task.teacher=moved")
    assert read_config(tmp_path / "student").task.teacher == f"{tmp_path}/elsewhere/moved"


class TestJudge:
    @pytest.fixture
    def judge(self, finished):
        return Judge(finished / "teacher")

    @pytest.fixture
    def images(self):
        return torch.randint(256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def test_it_answers_as_its_run(self, judge, images, finished):
        _, data, task = runs.load(finished / "teacher")
        batch = data.on_after_batch_transfer({"image": images})
        assert judge.prepare({"image": images})["image"].equal(batch["image"])
        assert judge.logits(batch).equal(task(batch))
        assert judge(batch).keys() == {"class"}
        assert judge(batch)["class"].equal(task.predict_step(batch, 0)["class"])
        assert judge.facts == data.facts

    def test_it_is_exact_within_mixed_precision(self, judge, images):
        batch = judge.prepare({"image": images})
        with torch.autocast("cpu", torch.bfloat16):
            assert judge.logits(batch).equal(judge.logits(batch))
            mixed = judge.logits({"image": batch["image"].double()})
        assert mixed.dtype == torch.float32
        assert mixed.equal(judge.logits(batch))

    def test_gradients_reach_its_inputs_alone_even_if_a_validation_asks_first(self, finished, images):
        judge = Judge(finished / "teacher")
        with torch.inference_mode():
            judge(judge.prepare({"image": images}))
        image = judge.prepare({"image": images})["image"].clone().requires_grad_()
        judge.logits({"image": image}).sum().backward()
        assert image.grad.any()
        assert not any(p.requires_grad or p.grad is not None for p in judge.loaded[1].parameters())
        assert not judge.loaded[1].training

    def test_loading_it_draws_nothing(self, finished, images):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        judge_module.load_judge.cache_clear()
        judge = Judge(finished / "teacher")
        judge.prepare({"image": images})
        assert torch.rand(3).equal(expected)

    def test_it_is_no_part_of_what_holds_it(self, judge):
        holder = torch.nn.Linear(2, 2)
        holder.judge = judge
        assert list(holder.state_dict()) == ["weight", "bias"]
        assert len(list(holder.train().modules())) == 1
        assert copy.deepcopy(holder).judge is judge


class Several(nn.Module):
    """Judges in every place."""

    def __init__(self, folder):
        super().__init__()
        self.folders, self.listed, self.named = folder, [Judge(folder)], {"a": (Judge(str(folder)),)}
        self.closed = (lambda judge: lambda batch: judge(batch))(Judge(folder))

    def ask(self, batch):
        return [self.listed[0], self.named["a"][0], self.closed, Judge(self.folders)]


@pytest.mark.parametrize("place", range(4))
def test_a_judge_in_any_place_refuses_other_weights(place, teacher, tmp_path):
    cfg = judged(teacher)
    (tmp_path / "run").mkdir()
    stamp = {"judges": {"task.teacher": checkpoints.stored_digest(teacher / "best.ckpt")}}
    for stamped in (tmp_path / "none", tmp_path / "run"):  # a run that begins, and one that was started before
        judges.expect_weights(cfg, stamped)
        task, batch = Several(teacher), {"image": torch.zeros(1, 1, 32, 32)}
        task.ask(batch)[place](batch)
        content = (teacher / "best.ckpt").read_bytes()
        (teacher / "best.ckpt").write_bytes(content[:-1] + b"x")
        task = Several(teacher)
        with pytest.raises(UserError, match="teacher: its weights have changed since the run was started"):
            task.ask(batch)[place](batch)
        (teacher / "best.ckpt").write_bytes(content)
        (tmp_path / "run/stamp.json").write_text(json.dumps({"overrides": []} | stamp))


def test_judges_of_a_folder_are_one_module_and_loaded_once(finished, monkeypatch):
    judge_module.load_judge.cache_clear()
    loaded = []
    monkeypatch.setattr(judge_module, "loader", lambda folder: loaded.append(folder) or load_task(folder))
    _, task = prepare(Run(judged(finished / "teacher")))
    assert task.teacher.loaded[1] is Judge(finished / "teacher").loaded[1]
    assert loaded == [finished / "teacher"]


@pytest.mark.parametrize(("more", "warns"), [([], False), (["data.split_seed=7"], True)])
def test_other_statistics_are_warned_of(more, warns, finished, capsys):
    prepare(Run(judged(finished / "teacher", *more)))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: task.teacher=")]
    assert len(said) == warns
    assert all("its image_mean and image_std differ from this data's; pass it batches" in line for line in said)


def judged(teacher, *more):
    filter_warnings()
    return compose_config("train", [*words(teacher), "experiment=digits", "data.tiny=true", "trainer=cpu", *more])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: shutil.rmtree(folder), "the folder does not exist"),
        (lambda folder: (folder / "best.ckpt").unlink(), "it has no best.ckpt"),
        (lambda folder: (folder / "data.json").unlink(), "it has no data.json"),
        (lambda folder: (folder / "best.ckpt").write_bytes(b""), "is damaged"),
        (lambda folder: (folder / "results.json").write_text('{"status": "failed"}'), "its status is failed"),
    ],
)
def test_a_teacher_that_is_no_finished_run_is_refused_before_data_is_read(teacher, spoil, problem, tmp_path):
    assert not check.check(judged(teacher, f"log_dir={tmp_path}"))
    spoil(teacher)
    with pytest.raises(UserError, match=f"error: task.teacher: .*{problem}") as error:
        check.check(judged(teacher, f"log_dir={tmp_path}"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "differ"),
    [
        (["data.image_size=16"], "image_size is 32 in the judge, 16 here"),
        (["data=cifar10"], "num_channels is 1 in the judge, 3 here"),
        (["experiment=sentiment"], "image is missing"),
    ],
)
def test_a_teacher_of_other_inputs_is_refused(finished, words, differ):
    cfg = judged(finished / "teacher", *words)
    with pytest.raises(UserError, match=f"error: task.teacher=.*its inputs do not fit this data: .*{differ}") as e:
        prepare(Run(cfg))
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "expected"), [("~/a", "{home}/a"), ("b/c", "{cwd}/b/c"), ("/d", "/d"), ("null", None)]
)
@pytest.mark.parametrize("key", ["judge", "teacher"])
def test_the_path_is_kept_whole(key, value, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.chdir(tmp_path)
    cfg = compose_config("train", ["experiment=digits", f"+task.{key}={value}"])
    user_paths.make_paths_absolute(cfg)
    assert cfg.task[key] == (expected and expected.format(home="/home/x", cwd=tmp_path))


def test_the_latest_run_may_teach(finished):
    (word,) = resolve_latest([f"log_dir={finished}", "task.teacher=latest"])[1:]
    assert word == f"task.teacher={finished}/teacher"
