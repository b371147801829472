"""The suite of tasks notices what breaks its contract, and refuses nothing that keeps it."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from lab.features.labels import ClassLabel
from lab.testing import ClassifierContract, TaskContract
from lab.testing.base import build, compose, read

WORDS = ("experiment=digits", "net=mlp", "data.tiny=true", "data.batch_size=4")


@pytest.fixture
def data():
    return read(WORDS)


@pytest.fixture
def task(data):
    return build(compose(*WORDS), data)


@pytest.fixture
def batch(data):
    return data.on_after_batch_transfer(data.splits["val"].__getitems__([0, 3, 6, 9, 12, 15]))


def steps(task, change) -> None:
    step = task.step
    task.step = lambda batch, stage: change(step(batch, stage), stage)


def draws(task) -> None:
    steps(task, lambda step, stage: replace(step, loss=step.loss * (1 + torch.rand(()))))


def sums(task) -> None:
    steps(task, lambda step, stage: replace(step, loss=step.loss * len(step.outputs["preds"])))


def sums_a_part(task) -> None:
    steps(task, lambda step, stage: replace(step, parts={"first": step.outputs["preds"].sum()}))


def counts_other_terms(task) -> None:
    task.size = lambda batch: 1 + (batch["label"] > 4).sum()


def detaches(task) -> None:
    steps(task, lambda step, stage: replace(step, loss=step.loss.detach().requires_grad_()))


def keeps_a_teacher(task) -> None:
    task.teacher = nn.Linear(2, 2)


def leaves_out_a_row(task) -> None:
    steps(task, lambda step, stage: replace(step, outputs={n: x[1:] for n, x in step.outputs.items()}))


def renames_parts(task) -> None:
    steps(task, lambda step, stage: replace(step, parts={f"of {len(step.outputs['preds'])}": step.loss}))


def answers(task, change) -> None:
    predict = task.predict_step
    task.predict_step = lambda batch, i: change(predict(batch, i))


def answers_more(task) -> None:
    answers(task, lambda made: made | {"logits": made["class"]})


def answers_logits(task) -> None:
    answers(task, lambda made: {"class": made["class"].log()})


def answers_a_sum(task) -> None:
    answers(task, lambda made: {"class": made["class"] / made["class"].sum()})


def reads_the_target(task) -> None:
    predict = task.predict_step
    task.predict_step = lambda batch, i: predict(batch, i) | {"label": batch["label"]}


def has_outputs(task, outputs) -> None:
    task.__class__ = type("Broken", (type(task),), {"outputs": property(lambda self: outputs)})


def shares_an_entry(task) -> None:
    has_outputs(task, task.outputs | {"other": task.outputs["class"]})


def answers_index(task) -> None:
    has_outputs(task, {"class": ClassLabel(task.class_names, entry="index")})


def knows_too_few_classes(task) -> None:
    has_outputs(task, {"class": ClassLabel(task.class_names[:3], entry="class")})


def shows_nothing(task) -> None:
    class Silent(ClassLabel):
        def rows(self, name, sample, inputs, top_k):
            return []

    has_outputs(task, {"class": Silent(task.class_names, entry="class")})


def optimizes_twice(task) -> None:
    named = list(task.named_parameters())
    task.parameters_of = lambda: {"one": named, "other": named[:1]}


def forgets_a_parameter(task) -> None:
    task.parameters_of = lambda: {"": list(task.named_parameters())[1:]}


DIFFERENTIABLE = "test_a_step_is_differentiable_in_every_parameter"
MEAN = "test_a_loss_is_the_mean_of_as_many_terms_as_size_counts"
ENTRIES = "test_answers_are_the_entries_of_the_outputs"
ROWS = "test_answers_have_a_row_for_each_sample_and_need_no_target"
BROKEN_TASKS = [
    (draws, "test_evaluation_is_the_same_for_any_batch_and_any_random_state"), (sums, MEAN), (sums_a_part, MEAN),
    (counts_other_terms, MEAN), (detaches, DIFFERENTIABLE), (keeps_a_teacher, DIFFERENTIABLE),
    (keeps_a_teacher, "test_checkpoints_hold_the_nets_weights_and_nothing_else"),
    (leaves_out_a_row, "test_outputs_have_a_row_for_each_sample"),
    (renames_parts, "test_a_stage_has_the_same_names_in_every_step"), (answers_more, ENTRIES),
    (shares_an_entry, ENTRIES), (answers_index, ENTRIES), (answers_a_sum, ROWS), (reads_the_target, ROWS),
    (answers_logits, "test_it_predicts_probabilities"), (knows_too_few_classes, "test_it_predicts_probabilities"),
    (shows_nothing, "test_answers_can_be_shown"), (optimizes_twice, "test_each_parameter_has_one_optimizer"),
    (forgets_a_parameter, "test_each_parameter_has_one_optimizer"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "test"), BROKEN_TASKS)
def test_a_task_that_breaks_its_contract_is_noticed(task, data, batch, breaks, test):
    check = getattr(ClassifierContract(), test)
    given = {"task": task, "data": data, "batch": batch, "stage": "val"}
    given = {name: given[name] for name in inspect.signature(check).parameters}
    check(**given)
    breaks(task)
    with pytest.raises((AssertionError, KeyError)):
        check(**given)


def test_a_task_without_outputs_keeps_its_contract(task, data, batch):
    has_outputs(task, {})
    suite = TaskContract()
    suite.test_answers_have_a_row_for_each_sample_and_need_no_target(task, batch)
    suite.test_answers_are_the_entries_of_the_outputs(task, batch)
    suite.test_answers_can_be_shown(task, data, batch)
