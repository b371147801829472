import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from lab import checkpoints, run, train
from lab.data.base import Batch, Data
from lab.features.labels import ClassLabel
from lab.testing.base import Contract, build, compose, learned, perturbed, rows, take, tensors

NUM = 6  # samples


class TaskContract(Contract):
    """What every task does; and what a classifier does, for a task whose outputs are classes.

    class TestMine(TaskContract):
        config = ["experiment=mine", "data.tiny=true"]
    """

    @pytest.fixture
    def task(self, cfg: DictConfig, data: Data) -> Any:
        return build(cfg, data)

    @pytest.fixture
    def batch(self, data: Data) -> Batch:
        split = data.splits["val"]
        return rows(split, data, range(0, len(split), max(1, len(split) // NUM))[:NUM])

    @pytest.fixture
    def classifier(self, task: Any) -> Any:
        if num_classes(task) is None:
            pytest.skip("its outputs are no classes")
        return task

    # every task

    def test_a_step_is_differentiable_in_every_parameter(self, task: Any, batch: Batch) -> None:
        perturbed(task)
        step = task.step(batch, "train")
        loss, parts = step.loss, step.parts
        assert loss.ndim == 0
        assert loss.isfinite()
        assert all(part.ndim == 0 and part.isfinite() for part in parts.values())
        each = [parts[name] for name in optimizers(task) if name]
        (torch.stack(each).sum() if each else loss).backward()
        assert not [name for name, p in learned(task).items() if p.grad is None or not p.grad.any()]

    def test_a_loss_is_the_mean_of_as_many_terms_as_size_counts(self, task: Any, batch: Batch) -> None:
        task.eval()
        halves = [take(batch, slice(0, NUM // 2)), take(batch, slice(NUM // 2, NUM))]
        with torch.no_grad():
            losses = torch.stack([task.step(half, "val").loss for half in halves])
            whole = task.step(batch, "val").loss
        sizes = torch.tensor([float(task.size(half)) for half in halves])
        torch.testing.assert_close((losses * sizes).sum() / sizes.sum(), whole, atol=1e-5, rtol=1e-4)

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

    def test_predictions_have_a_row_for_each_sample_and_need_no_target(self, task: Any, batch: Batch) -> None:
        task.eval()
        wanted = {name: batch[name] for name in task.input_entries}
        with torch.no_grad():
            whole, some = (tensors(task.predict_step(b, 0)) for b in (wanted, take(wanted, [3, 1])))
        for one, every in zip(some, whole, strict=True):
            torch.testing.assert_close(one, every[[3, 1]], atol=1e-4, rtol=1e-4)
            assert len(every) == NUM

    def test_each_parameter_has_one_optimizer(self, task: Any) -> None:
        every = [id(p) for named in optimizers(task).values() for _, p in named]
        assert len(every) == len(set(every))
        assert set(every) <= {id(p) for p in learned(task).values()}

    def test_weights_round_trip(self, cfg: DictConfig, data: Data, task: Any, batch: Batch) -> None:
        cfg.seed += 1
        other = build(cfg, data)
        other.load_state_dict(task.state_dict())
        with torch.no_grad():
            losses = [each.eval().step(batch, "val").loss for each in (task, other)]
        assert losses[0].equal(losses[1])

    def test_the_monitored_metric_is_one_of_the_tasks(self, cfg: DictConfig, task: Any) -> None:
        run.check_monitor(cfg, task)

    def test_a_run_that_is_resumed_ends_as_one_that_was_not(self, overrides: Sequence[str], tmp_path: Path) -> None:
        quick = [*overrides, "debug=two_batches", "scheduler=constant", "early_stopping=null", f"log_dir={tmp_path}"]
        for name, epochs in (("whole", [2]), ("parts", [1, 2])):
            for num in epochs:
                train.main(compose(*quick, f"trainer.max_epochs={num}", f"run={tmp_path / name}"))
        whole, parts = (checkpoints.read(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
        assert whole["global_step"] == parts["global_step"] > 0
        for name in ("state_dict", "optimizer_states"):
            assert same(whole[name], parts[name]), name

    # classifiers only

    def test_the_first_loss_of_a_classifier_is_that_of_a_guess(self, classifier: Any, batch: Batch) -> None:
        loss = classifier.eval().step(batch, "val").loss
        assert loss.item() == pytest.approx(math.log(num_classes(classifier) or 0), abs=0.3)

    def test_checkpoints_of_a_classifier_hold_the_nets_weights_and_nothing_else(self, classifier: Any) -> None:
        assert set(classifier.state_dict()) == {f"net.{name}" for name in classifier.net.state_dict()}

    def test_a_classifier_predicts_probabilities(self, classifier: Any, batch: Batch) -> None:
        with torch.no_grad():
            (probability,) = tensors(classifier.eval().predict_step(batch, 0))
        assert probability.shape == (NUM, num_classes(classifier))
        torch.testing.assert_close(probability.sum(-1), torch.ones(NUM))


def num_classes(task: Any) -> int | None:
    """Of a classifier; None: its outputs are no classes."""
    return next((f.num_classes for f in task.outputs.values() if isinstance(f, ClassLabel)), None)


def optimizers(task: Any) -> dict[str, list[tuple[str, Any]]]:
    """The named parameters of each optimizer."""
    if hasattr(task, "parameters_of"):
        return {name: list(named) for name, named in task.parameters_of().items()}
    return {"": [(name, p) for name, p in task.named_parameters() if p.requires_grad]}


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit by bit."""
    if isinstance(one, Tensor):
        return one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
