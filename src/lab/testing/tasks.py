import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lab import runs, train
from lab.data.base import Data
from lab.data.batches import Batch
from lab.engine.runs import checkpoints
from lab.features.labels import ClassLabel
from lab.tasks.base import Step
from lab.testing.base import Contract, build, compose, learned, perturbed, rows, take
from lab.testing.features import assert_shown

NUM = 6  # samples


class TaskContract(Contract):
    """The properties of every task.

        class TestMine(TaskContract):
            config = ["experiment=mine", "data.tiny=true"]

    The validation split needs six samples or more.
    """

    @pytest.fixture
    def task(self, cfg: DictConfig, data: Data) -> Any:
        return build(cfg, data)

    @pytest.fixture
    def batch(self, data: Data) -> Batch:
        split = data.splits["val"]
        return rows(split, data, range(0, len(split), max(1, len(split) // NUM))[:NUM])

    def test_a_step_is_differentiable_in_every_parameter(self, task: Any, batch: Batch) -> None:
        perturbed(task)
        step = task.step(batch, "train")
        assert all(scalar.ndim == 0 and scalar.isfinite() for scalar in (step.loss, *step.parts.values()))
        for name, parameters in optimizers(task).items():
            loss = step.parts[name] if name else step.loss
            found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            assert not [key for key, each in zip(parameters, found, strict=True) if each is None or not each.any()]

    def test_a_loss_is_the_mean_of_as_many_terms_as_size_counts(self, task: Any, batch: Batch) -> None:
        task.eval()
        halves = [take(batch, slice(0, NUM // 2)), take(batch, slice(NUM // 2, NUM))]
        with torch.no_grad():
            each = [scalars(task.step(half, "val")) for half in halves]
            whole = scalars(task.step(batch, "val"))
        sizes = torch.tensor([float(task.size(half)) for half in halves])
        for name, expected in whole.items():
            mean = (torch.stack([values[name] for values in each]) * sizes).sum() / sizes.sum()
            torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-4, msg=f"{name}: {mean}, not {expected}")

    def test_outputs_have_a_row_for_each_sample(self, task: Any, batch: Batch) -> None:
        for stage in ("train", "val", "test"):
            outputs = task.train(stage == "train").step(batch, stage).outputs
            assert all(isinstance(output, Tensor) and len(output) == NUM for output in outputs.values())

    @pytest.mark.parametrize("stage", ["val", "test"])
    def test_evaluation_is_the_same_for_any_batch_and_any_random_state(
        self, task: Any, batch: Batch, stage: str
    ) -> None:
        task.eval()
        with torch.no_grad():
            first = task.step(batch, stage)
            torch.rand(3)
            assert first.loss.equal(task.step(batch, stage).loss)
            whole, some = first.outputs, task.step(take(batch, [3, 1]), stage).outputs
        for name, values in some.items():
            torch.testing.assert_close(values, whole[name][[3, 1]], atol=1e-4, rtol=1e-4)

    def test_a_stage_has_the_same_names_in_every_step(self, task: Any, batch: Batch) -> None:
        for stage in ("train", "val", "test"):
            task.train(stage == "train")
            one, other = (task.step(b, stage) for b in (batch, take(batch, [0, 1])))
            assert one.parts.keys() == other.parts.keys()
            assert one.outputs.keys() == other.outputs.keys()

    def test_answers_have_a_row_for_each_sample_and_need_no_target(self, task: Any, batch: Batch) -> None:
        whole, some = answer(task, batch), answer(task, take(batch, [3, 1]))
        assert whole.keys() == some.keys()
        for name, values in some.items():
            torch.testing.assert_close(values, whole[name][[3, 1]], atol=1e-4, rtol=1e-4)
            assert len(whole[name]) == NUM

    def test_answers_are_the_entries_of_the_outputs(self, task: Any, batch: Batch) -> None:
        entries = [entry for feature in task.outputs.values() for entry in feature.entries]
        assert len(set(entries)) == len(entries), "two outputs have the same entry"
        assert "index" not in entries
        assert answer(task, batch).keys() == set(entries)

    def test_answers_can_be_shown(self, task: Any, data: Data, batch: Batch) -> None:
        made = answer(task, batch)
        items = data.splits["val"].__getitems__(batch["index"].tolist())
        for i, (name, feature) in itertools.product(range(NUM), task.outputs.items()):
            sample = {entry: made[entry][i].numpy() for entry in feature.entries}
            assert_shown(feature, name, sample, {entry: values[i].numpy() for entry, values in items.items()})

    def test_each_parameter_has_one_optimizer(self, task: Any) -> None:
        every = [id(p) for parameters in optimizers(task).values() for p in parameters.values()]
        assert len(every) == len(set(every)), "two optimizers have the same parameter"
        assert set(every) == {id(p) for p in learned(task).values()}

    def test_weights_round_trip(self, cfg: DictConfig, data: Data, task: Any, batch: Batch) -> None:
        other = build(cfg, data, weights=1)
        other.load_state_dict(task.state_dict())
        with torch.no_grad():
            losses = [each.eval().step(batch, "val").loss for each in (task, other)]
        assert losses[0].equal(losses[1])

    def test_the_monitored_metric_is_one_of_the_tasks(self, cfg: DictConfig, task: Any) -> None:
        runs.check_monitor(cfg, task)

    def test_a_run_that_is_resumed_ends_as_one_that_was_not(self, overrides: Sequence[str], tmp_path: Path) -> None:
        quick = [*overrides, "debug=two_batches", "scheduler=constant", "early_stopping=null", f"log_dir={tmp_path}"]
        for name, epochs in (("whole", [2]), ("parts", [1, 2])):
            for num in epochs:
                train.main(compose(*quick, f"trainer.max_epochs={num}", f"run={tmp_path / name}"))
        whole, parts = (checkpoints.read(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
        assert whole["global_step"] == parts["global_step"] > 0
        for name in ("state_dict", "optimizer_states"):
            assert same(whole[name], parts[name]), name


class ClassifierContract(TaskContract):
    """The properties of a task whose only output is the probabilities of classes."""

    def test_checkpoints_hold_the_nets_weights_and_nothing_else(self, task: Any) -> None:
        assert set(task.state_dict()) == {f"net.{name}" for name in task.net.state_dict()}

    def test_it_predicts_probabilities(self, task: Any, batch: Batch) -> None:
        (feature,) = task.outputs.values()
        assert isinstance(feature, ClassLabel)
        probability = answer(task, batch)[feature.entry]
        assert probability.shape == (NUM, feature.num_classes)
        assert probability.min() >= 0
        torch.testing.assert_close(probability.sum(-1), torch.ones(NUM))


def answer(task: Any, batch: Batch) -> dict[str, Tensor]:
    """The predictions for the inputs of a batch; empty for a task without outputs."""
    if not task.outputs:
        return {}
    with torch.no_grad():
        made: dict[str, Tensor] = task.eval().predict_step({name: batch[name] for name in task.input_entries}, 0)
    return made


def scalars(step: Step) -> dict[str, Tensor]:
    return {"loss": step.loss} | step.parts


def optimizers(task: Any) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of each optimizer by name."""
    return {name: dict(named) for name, named in task.parameters_of().items()}


def same(one: Any, other: Any) -> bool:
    """Return whether two states are bitwise equal."""
    if isinstance(one, Tensor):
        return one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
