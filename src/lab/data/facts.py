"""The facts of the data of a run. They are stored in `data.json`, and fill arguments of nets and tasks."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from lab.engine.config.signatures import Arguments
from lab.engine.errors import UserError
from lab.engine.files import damaged, read_json
from lab.engine.folder import FACTS
from lab.engine.records import validation_error
from lab.features.base import Feature, pack, unpack


@dataclass(frozen=True)
class Facts:
    """The facts of the data of a run.

    Args:
        features: the inputs and targets by the name that people see. They describe the entries of a batch.
        num_samples: the number of samples in each split.
        fingerprint: SHA-256 of all samples and targets. A run is not resumed if it has changed.
    """

    features: dict[str, Feature]
    num_samples: dict[str, int]
    fingerprint: str

    def arguments(self, first: Collection[str] = ()) -> "Arguments":
        """The facts by the names of the arguments that they fill.

        Args:
            first: the features whose facts take precedence, the most important feature first.
        """
        stated: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, feature in self.features.items():
            for argument, fact in arguments_of(name, feature):
                stated[argument][name] = self._facts[name][fact]
        agreed = {name: next(iter(each.values())) for name, each in stated.items() if _same(each.values())}
        preferred: dict[str, Any] = {}
        for name in first:
            if name in self.features:
                preferred = {fact: self._facts[name][fact] for fact in self.features[name].fact_names} | preferred
        values = agreed | preferred
        return Arguments(values, {name: each for name, each in stated.items() if name not in values})

    @cached_property
    def _facts(self) -> dict[str, dict[str, Any]]:
        return {name: feature.facts() for name, feature in self.features.items()}

    def plain(self) -> dict[str, Any]:
        """Plain values, for `of_plain`."""
        features = pack(self.features)
        return {"features": features, "num_samples": self.num_samples, "fingerprint": self.fingerprint}

    @classmethod
    def of_plain(cls, content: Mapping[str, Any]) -> Self:
        """Read facts from the plain values of a file.

        Raises:
            ValueError: a value is missing or wrong.
        """
        if missing := [key for key in ("features", "num_samples", "fingerprint") if key not in content]:
            raise ValueError(f"{missing[0]} is missing")
        try:
            num_samples = NUM_SAMPLES.validate_python(content["num_samples"], strict=True)
            fingerprint = TEXT.validate_python(content["fingerprint"], strict=True)
        except ValidationError as error:
            raise ValueError(f"num_samples or fingerprint: {validation_error(error)}") from error
        return cls(unpack(content["features"]), num_samples, fingerprint)


NUM_SAMPLES, TEXT = TypeAdapter(dict[str, int]), TypeAdapter(str)


def arguments_of(name: str, feature: Feature | type[Feature]) -> Iterator[tuple[str, str]]:
    """Yield the names of the arguments that a feature may fill, each with the name of the fact."""
    for fact in feature.fact_names:
        yield fact, fact
    for fact in (*feature.fact_names, *feature.qualified_fact_names):
        yield f"{name}_{fact}", fact


def stated_by(features: Mapping[str, type[Feature]]) -> Iterator[str]:
    """Yield the names of the arguments that features may fill; known before the data is read."""
    for name, feature in features.items():
        yield from (argument for argument, _ in arguments_of(name, feature))


def inputs_of(features: Mapping[str, Feature], entries: Iterable[str]) -> dict[str, Feature]:
    """The features that have one of these entries of a batch."""
    taken = set(entries)
    return {name: feature for name, feature in features.items() if taken & set(feature.entries)}


def scored(features: Mapping[str, Feature], output: Feature) -> list[str]:
    """The entries of the target that an output is scored against: a feature with the same facts; empty: no score."""
    if type(output).scores is Feature.scores:
        return []
    for feature in features.values():
        if type(feature) is type(output) and feature.facts() == output.facts():
            return list(feature.entries)
    return []


def stored_facts(folder: Path) -> Facts:
    """Read the facts of the run in a folder.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return Facts.of_plain(read_json(folder / FACTS))
    except ValueError as error:
        raise damaged(folder / FACTS, error) from error
    except UserError as error:  # a package is missing
        if not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise UserError(f"error: {folder / FACTS}: {str(error).removeprefix('error: ')}") from error.__cause__


def _same(values: Any) -> bool:
    first, *others = values
    return all(other == first for other in others)
