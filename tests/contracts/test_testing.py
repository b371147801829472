"""The contract suites notice what breaks a contract, and refuse nothing that keeps it."""

import ast
import copy
import inspect
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import CONF
from torch import nn

from lab.data.base import Data
from lab.data.batches import Tensors
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.labels import ClassLabel
from lab.nets.mlp import MLP
from lab.testing import ClassifierContract, DataContract, FeatureContract, NetContract, TaskContract
from lab.testing import nets as of_nets
from lab.testing.base import build, compose, read

BATCH = {"image": torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))}
WORDS = ("experiment=digits", "net=mlp", "data.tiny=true", "data.batch_size=4")


class Net(nn.Module):
    """It keeps the contract: its last layer starts at zero, and a part of it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head, self.frozen = nn.Linear(16, 8), nn.Linear(8, 3), nn.Linear(3, 3).requires_grad_(False)
        nn.init.zeros_(self.head.weight)

    def forward(self, image):
        return {"logits": self.frozen(self.head(self.layer(image.flatten(1)).tanh())), "scale": torch.tensor(1.0)}


class Mixes(Net):
    def forward(self, image):
        return super().forward(image - image.mean(0))


class LeavesOut(Net):
    def forward(self, image):
        return self.frozen(self.layer(image.flatten(1))[:, :3])


class Draws(Net):
    def forward(self, image):
        return super().forward(image + torch.rand_like(image))


class Counts(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image):
        self.calls += 1
        return super().forward(image)


class Constant(Net):
    def forward(self, image):
        return super().forward(torch.ones_like(image))


class Sums(Net):
    def forward(self, image):
        return super().forward(image)["logits"].sum(0)


class Asks(Net):
    def forward(self, image, text):
        return super().forward(image)


BROKEN_NETS = [
    (Mixes, "test_samples_are_independent_of_each_other"),
    (Constant, "test_samples_are_independent_of_each_other"),
    (LeavesOut, "test_every_parameter_gets_a_gradient_and_moves"),
    (Draws, "test_evaluation_is_deterministic_and_changes_nothing"),
    (Counts, "test_evaluation_is_deterministic_and_changes_nothing"),
    (Sums, "test_it_gives_a_row_for_each_sample"),
    (Asks, "test_it_takes_entries_of_a_batch"),
]


@pytest.mark.parametrize(("net", "test"), BROKEN_NETS)
def test_a_net_that_breaks_its_contract_is_noticed(net, test):
    getattr(NetContract(), test)(Net(), BATCH)
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(NetContract(), test)(net(), BATCH)


def test_a_module_that_imports_lightning_by_another_is_noticed():
    assert {"torch", "lab"} <= of_nets.imported("lab.nets.mlp")
    assert "lightning" in of_nets.imported("lab.tasks.beam_search") | of_nets.imported("lab.verbs.data")
    assert "hydra" in of_nets.imported("lab.runs.check")


def test_a_constraint_that_only_the_code_knows_is_noticed(monkeypatch):
    cfg, data = compose(*WORDS), read(WORDS)
    NetContract().test_annotations_refuse_what_the_net_does(None, cfg, data)
    init = MLP.__init__
    monkeypatch.setitem(init.__annotations__, "dropout", float)
    with pytest.raises(pytest.fail.Exception, match="net.dropout=-1: its annotation should refuse it"):
        NetContract().test_annotations_refuse_what_the_net_does(None, cfg, data)


@pytest.fixture
def data():
    data = read(WORDS)
    data.batch_size = 4
    return data


def twice(data: Data) -> None:
    train = data.splits["train"]
    data.splits = data.splits | {"val": train.subset(range(10))}


def no_index(data: Data) -> None:
    data.on_after_batch_transfer = lambda batch, i=0: {n: v for n, v in batch.items() if n != "index"}


def short(data: Data) -> None:
    data.on_after_batch_transfer = lambda batch, i=0: batch | {"more": torch.zeros(1)}


def of_the_batch(data: Data) -> None:
    data.on_after_batch_transfer = lambda batch, i=0: batch | {"image": batch["image"] - batch["image"].float().mean()}


def shuffled(data: Data) -> None:
    class Shuffled(Tensors):
        def __getitems__(self, indices):
            batch = super().__getitems__(indices)
            return batch | {"label": batch["label"].flip(0)}

    data.splits = {name: Shuffled(**split.tensors) for name, split in data.splits.items()}


def same_order(data: Data) -> None:
    loader = data.train_dataloader()
    data.train_dataloader = lambda: list(loader)


@pytest.mark.parametrize(
    ("breaks", "test"),
    [(twice, "test_no_sample_is_in_two_splits"), (twice, "test_facts_count_the_samples"),
     (no_index, "test_batches_are_dicts_of_tensors_with_a_row_for_each_sample"),
     (short, "test_batches_are_dicts_of_tensors_with_a_row_for_each_sample"),
     (of_the_batch, "test_a_sample_is_prepared_alike_in_any_batch"),
     (shuffled, "test_a_sample_is_a_row_of_a_batch_and_the_rest_is_padding"),
     (same_order, "test_the_order_is_a_function_of_seed_and_epoch")],
)  # fmt: skip
def test_data_that_break_their_contract_are_noticed(data, breaks, test):
    getattr(DataContract(), test)(copy.copy(data))
    breaks(data)
    with pytest.raises((AssertionError, KeyError)):
        getattr(DataContract(), test)(data)


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


@dataclass(frozen=True)
class Level(Feature):
    """It keeps the contract: a number from 0 to 9, in a line."""

    most: int = 9
    entry: str = "level"

    qualified_fact_names = ("most",)

    @property
    def entries(self):
        return (self.entry,)

    def decode(self, content, max_megapixels):
        if not content.isdigit():
            raise UserError("it is no level")
        return {self.entry: np.array(int(content))}

    def example(self):
        return {self.entry: np.array(self.most)}

    def rows(self, name, sample, inputs, top_k):
        return [{name: int(sample[self.entry])}]


class Thawed(Level):
    __setattr__ = object.__setattr__


@dataclass(frozen=True)
class ArrayFact(Level):
    qualified_fact_names = ("levels",)
    levels = np.arange(3)


@dataclass(frozen=True)
class TwoEntries(Level):
    @property
    def entries(self):
        return (self.entry, self.entry)


@dataclass(frozen=True)
class OtherEntries(Level):
    def decode(self, content, max_megapixels):
        return {"other": super().decode(content, max_megapixels)[self.entry]}


@dataclass(frozen=True)
class SmallExample(Level):
    def decode(self, content, max_megapixels):
        return {self.entry: np.ones(int(content))}

    def example(self):
        return {self.entry: np.ones(1)}


@dataclass(frozen=True)
class AnyContent(Level):
    def decode(self, content, max_megapixels):
        return {self.entry: np.array(len(content))}


@dataclass(frozen=True)
class Talks(Level):
    def decode(self, content, max_megapixels):
        try:
            return super().decode(content, max_megapixels)
        except UserError as error:
            raise UserError("no", "level") from error


@dataclass(frozen=True)
class AnyJson(Level):
    def from_json(self, value):
        return b"1"


@dataclass(frozen=True)
class ArrayRows(Level):
    def rows(self, name, sample, inputs, top_k):
        return [{name: sample[self.entry]}]


@dataclass(frozen=True)
class NoRows(Level):
    def rows(self, name, sample, inputs, top_k):
        return []


@dataclass(frozen=True)
class NoSuffix(Level):
    def file(self, sample, inputs):
        return "png", b""


@dataclass(frozen=True)
class Doubts(Level):
    def differs(self, a, b):
        return np.ones(len(a[self.entry]), bool)


class OfLevels(FeatureContract):
    feature = Level()
    contents = (b"3", b"5")
    samples = ({"level": np.array(3)}, {"level": np.array(4)})


BROKEN_FEATURES = [
    (Thawed, "test_it_is_a_frozen_dataclass_of_plain_values"), (ArrayFact, "test_facts_are_plain_values"),
    (TwoEntries, "test_samples_have_an_array_for_each_entry"),
    (OtherEntries, "test_samples_have_an_array_for_each_entry"),
    (SmallExample, "test_the_example_is_a_sample_of_the_largest_size"),
    (AnyContent, "test_garbage_is_refused_in_a_line"), (Talks, "test_garbage_is_refused_in_a_line"),
    (AnyJson, "test_json_of_another_type_is_refused"), (ArrayRows, "test_answers_are_rows_of_plain_values"),
    (NoRows, "test_answers_are_rows_of_plain_values"), (NoSuffix, "test_answers_are_rows_of_plain_values"),
    (Doubts, "test_an_answer_does_not_differ_from_itself"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "test"), BROKEN_FEATURES)
def test_a_feature_that_breaks_its_contract_is_noticed(kind, test):
    check = getattr(OfLevels(), test)
    check(Level())
    with pytest.raises((AssertionError, TypeError, ValueError, pytest.fail.Exception)):
        check(kind())


def test_a_feature_of_a_module_that_lab_may_not_call_is_noticed():
    with pytest.raises(UserError, match="the package test_testing, .* is not installed"):
        OfLevels().test_it_comes_back_from_json(Level())


def test_no_other_module_of_lab_imports_the_suites():
    for path in (CONF.parent / "src/lab").rglob("*.py"):
        if "testing" not in path.parts:
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            names = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
            assert not any(name.startswith("lab.testing") for name in names), path
