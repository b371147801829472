import itertools
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric.utilities.data import _set_sampler_epoch as set_epoch
from omegaconf import OmegaConf
from torch import Tensor

from lab.build import read_data
from lab.data.base import Data
from lab.data.batches import Batch, Batches
from lab.data.facts import Facts
from lab.engine.errors import UserError
from lab.features.labels import ClassLabel
from lab.testing.base import Contract, compose, read

SIZE = 4  # samples in a batch; every split needs more than this
STAGES = ("train", "val", "test")


class DataContract(Contract):
    """The properties of every data module. The tiny version needs 13 training samples or more.

        class TestMine(DataContract):
            config = ["experiment=mine", "data.tiny=true"]

    Args:
        has_twins: the data has equal samples, which may be in two splits.
    """

    has_twins: ClassVar[bool] = False

    @pytest.fixture
    def data(self, overrides: Sequence[str]) -> Data:
        data = read(overrides)
        data.batch_size, data.tokens_per_batch = SIZE, None
        return data

    # batches

    def test_batches_are_dicts_of_tensors_with_a_row_for_each_sample(self, data: Data) -> None:
        for stage in STAGES:
            batch = next(iter(loader(data, stage)))
            assert 0 < len(batch["index"]) <= SIZE
            for content in (batch, data.on_after_batch_transfer(dict(batch), 0)):
                assert all(isinstance(values, Tensor) for values in content.values())
                assert {len(values) for values in content.values()} == {len(batch["index"])}
                assert content["index"].equal(batch["index"])

    def test_index_is_that_of_the_samples(self, data: Data) -> None:
        for stage in STAGES:
            batch = next(iter(loader(data, stage)))
            for row, index in enumerate(batch["index"].tolist()):
                assert_is_row(data.splits[stage], index, batch, row)

    def test_a_sample_is_a_row_of_a_batch_and_the_rest_is_padding(self, data: Data) -> None:
        split = data.splits["val"]
        order = list(range(len(split)))[::-1]
        batch = split.__getitems__(order)
        assert batch["index"].tolist() == order
        for row, index in enumerate(order):
            assert_is_row(split, index, batch, row)

    def test_a_sample_is_prepared_alike_in_any_batch(self, data: Data) -> None:
        batch = data.splits["val"].__getitems__(range(SIZE))
        whole = data.on_after_batch_transfer(dict(batch), 0)
        some = data.on_after_batch_transfer({name: values[[2, 0]] for name, values in batch.items()}, 0)
        for name, values in some.items():
            torch.testing.assert_close(values, whole[name][[2, 0]])

    # splits

    def test_no_sample_is_in_two_splits(self, data: Data) -> None:
        if self.has_twins:
            pytest.skip("the data has equal samples")
        contents = [{sample(split, i) for i in range(len(split))} for split in map(data.splits.__getitem__, STAGES)]
        assert not any(one & other for one, other in itertools.combinations(contents, 2))

    def test_facts_count_the_samples(self, data: Data) -> None:
        assert {stage: len(data.splits[stage]) for stage in STAGES} == data.facts.num_samples

    def test_splits_depend_on_the_split_seed_alone(self, data: Data, overrides: Sequence[str]) -> None:
        assert read_data(compose(*overrides, "seed=7")).facts == data.facts
        if data.is_drawn:
            cfg = compose(*overrides)
            OmegaConf.update(cfg, "data.split_seed", data.split_seed + 1, force_add=True)
            other = read_data(cfg)
            assert other.facts.fingerprint != data.facts.fingerprint

    def test_facts_are_plain_values(self, data: Data) -> None:
        assert Facts.of_plain(json.loads(json.dumps(data.facts.plain()))) == data.facts

    def test_features_describe_the_batches(self, data: Data) -> None:
        features = data.facts.features
        assert {name: type(feature) for name, feature in features.items()} == data.features
        entries = [entry for feature in features.values() for entry in feature.entries]
        assert len(set(entries)) == len(entries), "two features have the same entry"
        assert not set(entries) - set(next(iter(data.test_dataloader())))

    def test_a_batch_of_one_feature_alone_becomes_what_the_net_gets(self, data: Data) -> None:
        """The task decides which features are its inputs; predictions and exported models have only these."""
        whole = next(iter(data.test_dataloader()))
        for feature in data.facts.features.values():
            batch = {name: whole[name] for name in feature.entries}
            assert data.on_after_batch_transfer(batch, 0).keys() == batch.keys()

    # epochs

    def test_the_order_is_a_function_of_seed_and_epoch(self, data: Data) -> None:
        batches = data.train_dataloader()
        first, second = order(batches, 0), order(batches, 1)
        assert first != second
        assert order(data.train_dataloader(), 1) == second, "the order depends on earlier draws"
        assert len(set(flat(first))) == len(flat(first))
        data.seed += 1
        assert order(data.train_dataloader(), 0) != first

    def test_evaluation_sees_each_sample_once_in_the_same_order(self, data: Data) -> None:
        for stage in ("val", "test"):
            every = order(loader(data, stage), 0)
            assert sorted(flat(every)) == list(range(len(data.splits[stage])))
            assert order(loader(data, stage), 1) == every

    def test_an_epoch_that_is_resumed_begins_where_it_stopped(self, data: Data) -> None:
        whole = order(data.train_dataloader(), 2)
        assert len(whole) > 2, "the training split has too few samples for this test"
        data.position = 2, 2
        batches = data.train_dataloader()
        assert order(batches, 2) == whole[2:]
        assert len(order(batches, 3)) == len(whole), "the next epoch is not whole"

    @pytest.mark.parametrize("size", [SIZE, 1])
    def test_processes_share_out_the_samples(self, size: int, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
        data.batch_size = size
        for stage in STAGES:
            seen = []
            for rank in range(3):
                monkeypatch.setattr(data, "rank_and_size", lambda rank=rank: (rank, 3))
                seen.append(order(loader(data, stage), 0))
            assert len({len(batches) for batches in seen}) == 1
            assert all(batch for batches in seen for batch in batches), "a batch is empty"
            every, most = flat(itertools.chain(*seen)), len(data.splits[stage])
            assert len(set(every)) == len(every), "a sample is seen twice"
            assert len(every) == most or (stage == "train" and len(every) > most - 3 * size - 3), "some are never seen"

    def test_more_processes_than_samples_is_an_error(self, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(data, "rank_and_size", lambda: (0, 1_000_000))
        with pytest.raises(UserError, match="fewer than the 1000000 processes"):
            data.val_dataloader()

    # classes

    def test_labels_are_indices_of_classes(self, data: Data) -> None:
        if not (names := class_names(data)):
            pytest.skip("the data has no classes")
        for (entry, classes), stage in itertools.product(names.items(), STAGES):
            label = next(iter(loader(data, stage)))[entry]
            assert label.dtype == torch.int64
            assert 0 <= label.min() <= label.max() < len(classes)


def loader(data: Data, stage: str) -> Any:
    return getattr(data, f"{stage}_dataloader")()


def order(batches: Any, epoch: int) -> list[list[int]]:
    """The samples of each batch."""
    set_epoch(batches, epoch)
    return [batch["index"].tolist() for batch in batches]


def flat(batches: Any) -> list[int]:
    return list(itertools.chain(*batches))


def sample(split: Batches, index: int) -> tuple[Any, ...]:
    """The content of a sample, but not its index."""
    values = split[index]
    return tuple((name, values[name].numpy().tobytes()) for name in sorted(values) if name != "index")


def assert_is_row(split: Batches, index: int, batch: Batch, row: int) -> None:
    for name, value in split[index].items():
        there = batch[name][row]
        inside = tuple(map(slice, value.shape))
        assert value.equal(there[inside]), name
        padding = torch.ones(there.shape, dtype=torch.bool)
        padding[inside] = False
        assert len(there[padding].unique()) <= 1, f"{name}: padding of several values"


def class_names(data: Data) -> dict[str, list[str]]:
    """The classes of each entry of a batch that has classes."""
    found = [feature for feature in data.facts.features.values() if isinstance(feature, ClassLabel)]
    return {feature.entry: feature.class_names for feature in found}
