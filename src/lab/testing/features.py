import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from lab.engine.errors import UserError
from lab.features.base import Feature, Sample, pack, stack, unpack

GARBAGE = (b"", b"\x00\xff\xfe garbage \x80", b"%PDF-1.4")


class FeatureContract:
    """The properties of every feature.

        class TestMine(FeatureContract):
            feature = Image(num_channels=3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3)
            contents = [png_of_a_cat, png_of_a_dog]

    Args:
        feature: an instance.
        contents: readable items, as the bytes of a request; () for a feature that is not an input.
        garbage: contents that the feature refuses.
        samples: outputs of a task; () for a feature that is not an output.
        inputs: the entries of the input of each sample.
    """

    feature: ClassVar[Feature]
    contents: ClassVar[Sequence[bytes]] = ()
    garbage: ClassVar[Sequence[bytes]] = GARBAGE
    samples: ClassVar[Sequence[dict[str, np.ndarray]]] = ()
    inputs: ClassVar[Sequence[dict[str, np.ndarray]]] = ()

    @pytest.fixture(name="feature")
    def _feature(self) -> Feature:
        return type(self).feature

    def test_it_is_a_frozen_dataclass_of_plain_values(self, feature: Feature) -> None:
        assert is_dataclass(feature)
        for field in fields(feature):
            with pytest.raises(FrozenInstanceError):
                setattr(feature, field.name, None)

    def test_it_comes_back_from_json(self, feature: Feature) -> None:
        assert unpack(json.loads(json.dumps(pack({"mine": feature})))) == {"mine": feature}

    def test_a_wrong_value_in_json_is_refused(self, feature: Any) -> None:
        content = pack({"mine": feature})
        for name in ("_target_", *(field.name for field in fields(feature))):
            with pytest.raises(ValueError, match=r"features\.mine"):
                unpack({"mine": content["mine"] | {name: {"not": "this"}}})

    def test_facts_are_plain_values(self, feature: Feature) -> None:
        facts = feature.facts()
        assert facts.keys() == {*feature.fact_names, *feature.qualified_fact_names}
        assert json.loads(json.dumps(facts)) == facts

    def test_samples_have_an_array_for_each_entry(self, feature: Feature) -> None:
        assert len(set(feature.entries)) == len(feature.entries) > 0
        for content in self.contents:
            sample = feature.decode(content, np.inf)
            assert sample.keys() == set(feature.entries)
            assert all(isinstance(array, np.ndarray) for array in sample.values())

    def test_a_stacked_sample_is_a_row_and_the_rest_is_zeros(self, feature: Feature) -> None:
        samples = [feature.decode(content, np.inf) for content in self.contents] or list(self.samples)
        if not samples:
            pytest.skip("it has no contents and no samples")
        batch = stack(samples)
        for i, sample in enumerate(samples):
            for name, array in sample.items():
                inside = tuple(map(slice, array.shape))
                assert batch[name].dtype == array.dtype
                assert (batch[name][i][inside] == array).all()
                assert np.count_nonzero(batch[name][i]) == np.count_nonzero(array)

    def test_the_example_is_a_sample_of_the_largest_size(self, feature: Feature) -> None:
        if not self.contents:
            pytest.skip("it is no input")
        samples = [feature.decode(content, np.inf) for content in self.contents]
        example = feature.example()
        assert example.keys() == samples[0].keys()
        stacked = stack([example, *samples])
        for name, array in example.items():
            assert array.dtype == samples[0][name].dtype
            assert stacked[name].shape[1:] == array.shape, "an item is larger than the example"

    def test_garbage_is_refused_in_a_line(self, feature: Feature) -> None:
        for content in self.garbage if self.contents else ():
            with pytest.raises(UserError) as error:
                feature.decode(content, np.inf)
            assert len(str(error.value).splitlines()) == 1

    def test_json_of_another_type_is_refused(self, feature: Feature) -> None:
        for value in (None, ["x"], {"a": 1}, True) if self.contents else ():
            with pytest.raises(ValueError, match=r"\w"):
                feature.from_json(value)

    def test_answers_are_rows_of_plain_values(self, feature: Feature) -> None:
        for i, sample in enumerate(self.samples):
            assert_shown(feature, "mine", sample, self.inputs[i] if self.inputs else {})

    def test_html_shows_names_as_text(self, feature: Any) -> None:
        """Names may come from untrusted files, such as the header of a table."""
        names = {f.name: getattr(feature, f.name) for f in fields(feature)}
        texts = {k: v for k, v in names.items() if isinstance(v, list) and v and isinstance(v[0], str)}
        hostile = replace(feature, **{k: [f'{each}<b>&"' for each in v] for k, v in texts.items()})
        for sample in self.samples:
            assert "<b>" not in hostile.html(sample)

    def test_an_answer_does_not_differ_from_itself(self, feature: Feature) -> None:
        if not self.samples:
            pytest.skip("it is no output")
        batch = stack(self.samples)
        assert (feature.difference(batch, batch) == 0).all()
        assert not feature.differs(batch, batch).any()

    def test_it_imports_no_torch(self, feature: Feature) -> None:
        code = f"import sys, {type(feature).__module__}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], env=_path(), check=False).returncode == 0


def assert_shown(feature: Feature, name: str, sample: Sample, inputs: Sample) -> None:
    """Check that an output has columns of plain values or a file, and HTML."""
    rows, file = feature.rows(name, sample, inputs, 3), feature.file(sample, inputs)
    assert rows or file, "neither columns nor a file"
    for row in rows:
        assert all(isinstance(column, str) for column in row)
        assert json.loads(json.dumps(row)) == row
    if file:
        suffix, content = file
        assert suffix.startswith(".")
        assert isinstance(content, bytes)
    assert isinstance(feature.html(sample), str)


def _path() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
