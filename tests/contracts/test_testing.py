"""The suites of nets and data notice what breaks their contract, and refuse nothing that keeps it."""

import ast
import copy

import pytest
import torch
from conftest import CONF
from torch import nn

from lab.data.base import Data
from lab.data.batches import Tensors
from lab.nets.mlp import MLP
from lab.testing import DataContract, NetContract
from lab.testing import nets as of_nets
from lab.testing.base import compose, read

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


def test_no_other_module_of_lab_imports_the_suites():
    for path in (CONF.parent / "src/lab").rglob("*.py"):
        if "testing" not in path.parts:
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            names = [f"{node.module}.{alias.name}" for node in nodes for alias in node.names]
            assert not any(name.startswith("lab.testing") for name in names), path
