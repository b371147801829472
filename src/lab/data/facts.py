"""What a run knows of its data: it is stored in `data.json`, and it fills the arguments of nets and tasks."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from lab.features.base import Feature, pack, unpack
from lab.records import validation_error


@dataclass(frozen=True)
class Facts:
    """What a run knows of its data.

    Args:
        features: the inputs and targets by the name that people see; they describe the entries of a batch.
        num_samples: in each split.
        fingerprint: SHA-256 of all samples and targets. A run whose data have another one is not resumed.
    """

    features: dict[str, Feature]
    num_samples: dict[str, int]
    fingerprint: str

    def arguments(self, feature: str | None = None) -> dict[str, Any]:
        """The facts by the names under which they fill arguments.

        A fact has its own name where all features that state it agree, and always that of its feature before it:
        `num_classes` and `label_num_classes`.

        Args:
            feature: whose facts come first, in a node of the config that has the feature's name.
        """
        every = {f"{name}_{fact}": value for name, one in self.features.items() for fact, value in one.facts().items()}
        agreed = {fact: next(iter(each.values())) for fact, each in self._by_fact().items() if _same(each.values())}
        own = self.features[feature].facts() if feature in self.features else {}
        return every | agreed | own

    def ambiguous(self) -> dict[str, dict[str, Any]]:
        """The facts that several features state with different values: fact -> feature -> value."""
        return {fact: each for fact, each in self._by_fact().items() if not _same(each.values())}

    def _by_fact(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, feature in self.features.items():
            for fact, value in feature.facts().items():
                found[fact][name] = value
        return found

    def plain(self) -> dict[str, Any]:
        """Plain values, for `of_plain`."""
        features = pack(self.features)
        return {"features": features, "num_samples": self.num_samples, "fingerprint": self.fingerprint}

    @classmethod
    def of_plain(cls, content: dict[str, Any]) -> Self:
        """The facts in plain values that somebody stored.

        Raises:
            ValueError: a value is missing or wrong.
        """
        try:
            num_samples = TypeAdapter(dict[str, int]).validate_python(content["num_samples"])
            fingerprint = TypeAdapter(str).validate_python(content["fingerprint"])
        except ValidationError as error:
            raise ValueError(validation_error(error)) from error
        return cls(unpack(content["features"]), num_samples, fingerprint)


def _same(values: Any) -> bool:
    first, *others = values
    return all(other == first for other in others)
