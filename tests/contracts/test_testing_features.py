"""The suite of features notices what breaks its contract, and refuses nothing that keeps it."""

from dataclasses import dataclass

import numpy as np
import pytest

from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.testing import FeatureContract


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
    with pytest.raises(UserError, match="the package test_testing_features, .* is not installed"):
        OfLevels().test_it_comes_back_from_json(Level())
