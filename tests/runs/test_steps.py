"""A task's step: parts of the loss, draws, predictions and figures, batch by batch."""

import errno
import json
from contextlib import nullcontext
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from conftest import PLAIN
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import OmegaConf
from tables import read_rows
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric, MetricCollection

from lab import runs, train
from lab.build import build_task, build_trainer
from lab.callbacks.figures import MOST_EMBEDDED, KeptOutputs, Projector, epoch_figures, first_rows
from lab.callbacks.predictions import PredictionWriter, SortedTable, encoded
from lab.callbacks.step_seed import StepSeed
from lab.engine import draws
from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.engine.training.lightning_quirks import filter_warnings
from lab.metrics.buffer import MetricBuffer
from lab.runs.new import create_run
from lab.runs.open import Run
from lab.tasks.base import Step, Task
from lab.tasks.classification import Classification
from lab.train import prepare

QUICK = (*PLAIN, "net=mlp", "net.widths=[8]", "seed=3", "trainer.max_epochs=2", "data.batch_size=32")


class Drawing(Classification):
    """A classifier whose loss draws, as that of a generator does, and that shows what it drew."""

    keeps = ("noise", "preds")

    def step(self, batch, stage):
        step = super().step(batch, stage)
        noise = self.normal(batch, stage, 2, 3)
        outputs = step.outputs | {"noise": noise, "step": torch.rand(len(noise), len(noise))}
        return Step(step.loss + noise.square().mean(), {"ce": step.loss, "noise": noise.square().mean()}, outputs)

    def predictions(self, batch, outputs):
        return {"noise": outputs["noise"][:, 0, 0].tolist(), "label": batch["label"].tolist()}

    def figures(self, samples, outputs):
        noise = outputs["noise"]
        return {"noise": "\n".join(f"{i} {x:.6f}" for i, x in zip(samples.index, noise[:, 1, 2], strict=True))}

    def epoch_figures(self, epoch):
        assert not self.training
        assert not self.net.training
        assert not torch.is_grad_enabled()
        return {"drawn": f"after epoch {epoch}"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of a run that draws."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    quiet = ["figures=true", "trainer=cpu", "trainer.enable_progress_bar=false", f"run={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.train.build_task", with_class(Drawing, build_task))
        filter_warnings()
        train.main(compose_config("train", [*QUICK, *quiet]))
    return folder


def with_class(kind, build):
    def build_task(*args):
        task = build(*args)
        task.__class__ = kind  # a fork's class would be in its own package
        return task

    return build_task


def test_each_part_is_logged_once_an_epoch_over_all_samples(drawn):
    num = json.loads((drawn / "data.json").read_text())["num_samples"]
    rows = read_rows(drawn / "metrics.csv")
    for stage in ("train", "val"):
        found = [row for row in rows if row[f"{stage}/loss/noise"]]
        assert len(found) == 2
        for row in found:
            loss, ce, noise = (float(row[f"{stage}/loss{part}"]) for part in ("", "/ce", "/noise"))
            assert loss == pytest.approx(ce + noise, rel=1e-5)
    expected = draws.normal("3 val ", torch.arange(num["val"]), 2, 3).square().mean().item()
    assert noise == pytest.approx(expected, rel=1e-5), "the last validation"
    train_noise = [float(row["train/loss/noise"]) for row in rows if row["train/loss/noise"]]
    assert len(set(train_noise)) == 2, "every epoch draws the same"


def test_the_test_is_the_same_again_with_any_batch_size(drawn):
    filter_warnings()
    expected = json.loads((drawn / "results.json").read_text())["test"]
    for batch_size in (7, 1000):
        cfg, data, task = runs.load(drawn)
        task.__class__ = Drawing
        data.batch_size = batch_size
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        found = L.Trainer(accelerator="cpu", **quiet).test(task, data, verbose=False)[0]
        assert found == pytest.approx(expected, rel=1e-5)
    assert [type(c) for c in runs.evaluation_trainer(cfg, cfg.trainer).callbacks if isinstance(c, StepSeed)]


def test_rows_and_figures_are_those_of_their_samples(drawn):
    rows = read_rows(drawn / "test_predictions.csv")
    _, data, _ = runs.load(drawn)
    data.setup("test")
    noise = draws.normal("3 test ", torch.arange(len(rows)), 2, 3)
    assert [row["sample"] for row in rows] == list(data.names["test"])
    assert [row["noise"] for row in rows] == [f"{x:.6g}" for x in noise[:, 0, 0].tolist()]
    assert [int(row["label"]) for row in rows] == data.splits["test"].tensors["label"].tolist()
    lines = (drawn / "figures/test_noise.md").read_text().splitlines()
    assert lines == [f"{i} {x:.6f}" for i, x in enumerate(noise[:, 1, 2].tolist())]
    assert (drawn / "figures/epoch_drawn.md").read_text() == "after epoch 1\n"


def test_parts_of_other_names_are_refused(drawn):
    _, data, task = runs.load(drawn)
    data.setup("test")
    batch = data.on_after_batch_transfer(data.splits["test"].__getitems__([0, 1]))
    steps = [Step(torch.ones(()), {name: torch.ones(()) for name in names}) for names in ("", "a", ["loss"])]
    for first, second in ((0, 1), (1, 0), (2, 2)):
        task.metrics.sums = {}
        said = "a part cannot be named loss" if first == 2 else "must have the same names in every step of a stage; val"
        with pytest.raises(ValueError, match=f"step: .*{said}"):  # noqa: PT012
            for number in (first, second):
                task.step = lambda batch, stage, number=number: steps[number]
                task.validation_step(batch, 0)


def test_every_evaluation_batch_has_its_seed():
    def drawn(hook, batch_idx=0, rank=0, seed=0):
        trainer = SimpleNamespace(current_epoch=0, global_rank=rank)
        getattr(StepSeed(seed), hook)(trainer, None, None, batch_idx)
        return torch.rand(()).item()

    hooks = [f"on_{stage}_batch_start" for stage in ("train", "validation", "test")]
    first = [drawn(hook) for hook in hooks]
    assert [drawn(hook) for hook in hooks] == first
    others = [drawn(hook, **other) for hook in hooks for other in ({"batch_idx": 1}, {"rank": 1}, {"seed": 1})]
    assert len({*first, *others}) == 12


# metrics


class OfAnyWidth(MeanSquaredError):  # noqa: N818
    """Takes what has another width in every batch; the base class's arguments have other names."""

    def update(self, wide, target):
        super().update(wide.sum(-1), target)


def test_metrics_take_the_outputs_that_they_name():
    buffer = MetricBuffer(MetricCollection({"a": MeanSquaredError(), "b": OfAnyWidth()}))
    expected = []
    for width in (2, 2, 5, 1):
        target, preds, wide = torch.rand(4), torch.rand(4), torch.rand(4, width)
        buffer.update({"preds": preds, "unused": torch.rand(4, width + 1), "target": target, "wide": wide})
        expected.append(((preds - target) ** 2, (wide.sum(-1) - target) ** 2))
        for tensor in (preds, wide, target):
            tensor.zero_()  # as a CUDA graph does
    assert len(buffer.pending) == 1
    assert buffer.taken == ["preds", "target", "wide"]
    values = buffer.compute()
    for name, errors in zip("ab", zip(*expected, strict=True), strict=True):
        assert values[name].item() == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize("big", ["preds", "wide"])
def test_a_buffer_holds_no_more_than_its_numbers(big, monkeypatch):
    monkeypatch.setattr("lab.metrics.buffer.MOST_BUFFERED", 1000)
    buffer = MetricBuffer(MetricCollection({"a": OfAnyWidth()}))
    for _ in range(10):
        buffer.update({"wide": torch.rand(50, 9), "target": torch.rand(50), "preds": torch.rand(50, 900)})
        assert sum(value.numel() for row in buffer.pending for value in row) <= 1000


def test_no_metrics_are_no_memory():
    buffer = MetricBuffer(MetricCollection({}))
    buffer.update({"preds": torch.rand(4)})
    assert not buffer.pending
    assert buffer.compute() == {}


class Right(Metric):
    """The share of the numbers that are above a half."""

    right: Tensor
    num: Tensor

    def __init__(self):
        super().__init__()
        self.add_state("right", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("num", torch.zeros(()), dist_reduce_fx="sum")

    def count(self, numbers):
        self.right += (numbers > 0.5).sum()
        self.num += len(numbers)

    def compute(self):
        return self.right / self.num


class Real(Right):
    def update(self, real):
        self.count(real)


class Fake(Right):
    def update(self, fake):
        self.count(fake)


def test_metrics_that_agree_on_the_first_batch_do_not_share_a_state(drawn):
    _, _, task = runs.load(drawn)
    given = MetricCollection({"real": Real(), "fake": Fake(), "again": Real()}, prefix="its_")
    task = Task(task.net, None, None, {"val": given})
    buffer = task.metrics.metric_buffers["val"]
    for real, fake in (([0.0, 0.0], [0.0, 0.0]), ([1.0, 1.0], [1.0, 0.0]), ([0.0, 1.0], [1.0, 1.0])):
        buffer.update({"real": torch.tensor(real), "fake": torch.tensor(fake)})
        values = {name: value.item() for name, value in buffer.compute().items()}
        assert values == {"its_real": sum(real) / 2, "its_fake": sum(fake) / 2, "its_again": sum(real) / 2}


class Total(Metric):
    """A sum of floats, which depends on their order and grouping."""

    total: Tensor

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, wide):
        self.total += wide.sum()

    def compute(self):
        return self.total


@pytest.mark.parametrize("saves", [[1], [3, 4], [2, 6, 9], range(12)], ids=str)
def test_a_buffer_that_is_saved_and_restored_gives_the_same_bits(saves, monkeypatch):
    monkeypatch.setattr("lab.metrics.buffer.MOST_BUFFERED", 300)
    batches = [{"wide": torch.rand(7, 2 + (i > 8)).exp(), "other": torch.rand(7)} for i in range(12)]
    whole = MetricBuffer(MetricCollection({"total": Total()}))
    cut = MetricBuffer(MetricCollection({"total": Total()}))
    for i, batch in enumerate(batches):
        whole.update(batch)
        cut.update(batch)
        if i in saves:
            cut.metrics.persistent(True)
            states = cut.metrics.state_dict(), cut.state()
            cut = MetricBuffer(MetricCollection({"total": Total()}))
            cut.metrics.load_state_dict(states[0], strict=False)
            cut.restore(states[1])
    assert cut.compute()["total"].equal(whole.compute()["total"])


class Boxes(Metric):
    """Gives several values, as a detector's precision does."""

    def update(self, wide):
        pass

    def compute(self) -> dict[str, Tensor]:
        return {"map": torch.ones(()), "map_50": torch.ones(())}


class Undeclared(Boxes):
    def compute(self):
        return super().compute()


@pytest.mark.parametrize(
    ("metrics", "monitored", "accepted"),
    [
        ({"mse": MeanSquaredError()}, "val/mse", True), ({"mse": MeanSquaredError()}, "val/loss", True),
        ({"mse": MeanSquaredError()}, "val/loss/a", True), ({"mse": MeanSquaredError()}, "val/mae", False),
        ({"mse": MeanSquaredError()}, "val/map_50", False), ({"boxes": Boxes()}, "val/map_50", True),
        ({"mse": MeanSquaredError(), "boxes": Boxes()}, "val/map_50", True), ({"boxes": Boxes()}, "map_50", False),
        ({"boxes": Undeclared()}, "val/map", True), ({}, "val/acc", False), ({"boxes": Boxes()}, "test/map", False),
    ],
)  # fmt: skip
def test_a_name_is_monitored_that_validation_may_report(metrics, monitored, accepted, drawn):
    _, _, task = runs.load(drawn)
    task = Task(task.net, None, None, {"val": MetricCollection(metrics)})
    cfg = OmegaConf.create({"monitor": {"metric": monitored}})
    with nullcontext() if accepted else pytest.raises(UserError, match=f"monitor.metric: unknown metric {monitored}"):
        runs.check_monitor(cfg, task)


# predictions


@pytest.mark.parametrize("index", [[[0, 1], [2]], [[2, 0], [3, 1]], [[9], [5, 7]]], ids=str)
def test_rows_come_in_any_order_and_are_written_in_theirs(index, tmp_path):
    sheet = SortedTable(tmp_path / "a.csv", b"head\r\n")
    for part in index:
        sheet.write(part, encoded([[str(i), "é,\n" * i] for i in part]))
    sheet.finish()
    sheet.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    whole = encoded([[str(i), "é,\n" * i] for i in sorted(i for part in index for i in part)])
    assert (tmp_path / "a.csv").read_bytes() == b"".join([b"head\r\n", *whole])


@pytest.mark.parametrize("moment", ["write", "finish"])
def test_a_full_disk_undoes_no_training_and_leaves_no_half_table(moment, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SortedTable, moment, full)
    callback = PredictionWriter(tmp_path)
    callback.columns = ["a"]
    for _ in range(2):
        if not callback.failed:
            callback.write([([0], [b"x,1\r\n"])])
    callback.on_test_end(None, None)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_an_error_in_the_test_leaves_no_half_table(compose, tmp_path):
    class Failing(Drawing):
        def predictions(self, batch, outputs):
            if 0 in batch["index"]:
                return super().predictions(batch, outputs)
            return {"other": batch["index"].tolist()}

    cfg = compose(*QUICK, "data.batch_size=16")
    data, task = prepare(Run(cfg))
    task.__class__ = Failing
    create_run(cfg, data, tmp_path)
    with pytest.raises(ValueError, match=r"the columns are \['other'\], and those before \['noise', 'label'\]"):
        build_trainer(cfg, tmp_path).test(task, data, verbose=False)
    assert not list(tmp_path.glob("*predictions*"))
    assert not list(tmp_path.glob(".*predictions*"))


# figures


def test_kept_outputs_are_in_the_order_of_the_samples():
    kept = KeptOutputs(6)
    for index in ([5, 0], [2], [4]):
        kept.add(torch.tensor(index), {"a": torch.tensor(index) * 10, "b": torch.tensor(index)[:, None].float()})
    index, values = kept.take()
    assert index.tolist() == [0, 2, 4, 5]
    assert values["a"].tolist() == [0, 20, 40, 50]
    assert values["b"].shape == (4, 1)
    kept.add(torch.tensor([1, 3]), {"a": torch.tensor([10, 30])})
    assert kept.take()[1]["a"].tolist() == [0, 10, 20, 30, 40, 50]
    with pytest.raises(ValueError, match=r"b, which figures take, has another shape .*: \(2,\), and before \(1,\)"):
        kept.add(torch.tensor([1]), {"b": torch.ones(1, 2)})


def test_the_first_training_samples_are_copies():
    batch = {"index": torch.arange(40), "boxes": torch.rand(40, 3, 4), "waveform": torch.rand(40, 16000).half()}
    rows = first_rows(batch)
    assert {name: tuple(value.shape) for name, value in rows.items()} == {
        "index": (32,), "boxes": (32, 3, 4), "waveform": (32, 16000),
    }  # fmt: skip
    assert rows["boxes"].equal(batch["boxes"][:32])
    assert rows["boxes"].untyped_storage().data_ptr() != batch["boxes"].untyped_storage().data_ptr()


class Twice(nn.Module):
    """Its head is asked twice for each batch, and once with a vector for each token."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        self.head(x.repeat(2, 1))
        self.head(self.first(x))
        return self.head(x)


def test_the_projector_has_a_thousand_features_and_their_samples():
    net, seen = Twice(), []
    projector = Projector(net)
    for index in torch.randperm(1600).split(300):
        projector.batch_index = index
        x = torch.rand(len(index), 4)
        net(x)
        seen.append(net.first(x))
    projector.remove()
    net(torch.rand(5, 4))
    assert torch.cat(projector.features).equal(torch.cat(seen)[:MOST_EMBEDDED])
    assert len(torch.cat(projector.index)) == MOST_EMBEDDED


def test_figures_after_an_epoch_change_no_mode(drawn):
    _, _, task = runs.load(drawn)
    task.__class__ = Drawing
    task.train()
    filter_warnings()
    frozen = next(module for module in task.net.modules() if isinstance(module, nn.Linear)).eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert epoch_figures(trainer, task) == {"drawn": "after epoch 0"}
    assert task.training
    assert task.net.training
    assert not frozen.training
    assert Task.epoch_figures(task, 0) == {}


class Weights(Classification):
    """Shows its weights, or fails to."""

    def epoch_figures(self, epoch):
        if epoch:
            raise ValueError("it cannot draw")
        return {name: p.clone() for name, p in self.named_parameters()}


@pytest.mark.parametrize("epoch", [0, 1])
def test_figures_after_an_epoch_have_the_averaged_weights(epoch, drawn, monkeypatch):
    _, _, task = runs.load(drawn)
    task.__class__ = Weights
    filter_warnings()
    average = EMAWeightAveraging(decay=0.5)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[average])
    monkeypatch.setattr(L.Trainer, "current_epoch", epoch)
    average.setup(trainer, task, "fit")
    averaged = {name: p.detach().clone() for name, p in task.named_parameters()}
    with torch.no_grad():
        for p in task.parameters():
            p.add_(1)
    raw = {name: p.detach().clone() for name, p in task.named_parameters()}
    if epoch:
        with pytest.raises(ValueError, match="it cannot draw"):
            epoch_figures(trainer, task)
    else:
        found = epoch_figures(trainer, task)
        assert all(found[name].equal(value) for name, value in averaged.items())
    assert all(p.equal(raw[name]) for name, p in task.named_parameters())
