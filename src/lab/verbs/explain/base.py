"""What attributes the answers of a net to one input. Nothing heavy is imported here."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.engine.errors import UserError
from lab.features.base import Feature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lab.verbs.explain.group import Group
    from lab.verbs.explain.scores import Method


class Explainer(ABC):
    """The methods that attribute answers to the positions of one input, such as pixels, and how they are shown.

    `Feature.explainer` names the subclass for a type of input. The input is one entry of a batch, and the net takes
    that entry alone. An attribution has a number for each position of the entry; its channels share one.

    Args:
        feature: the input.
    """

    def __init__(self, feature: Any) -> None:
        self.feature = feature

    @abstractmethod
    def methods(self) -> "dict[str, Method]":
        """By name; `lab serve` uses `integrated_gradients`.

        A method takes a net, the (B, …) entry as the net gets it, and the (B,) classes to explain. It returns what
        each position did for the logit of the class, (B, …).
        """

    @property
    @abstractmethod
    def blank(self) -> float:
        """The value of a position that is taken away."""

    def left_out(self, net: "nn.Module", x: "Tensor") -> dict[str, str]:
        """The methods that say nothing of this net, each with the reason; `x` is a (1, …) entry."""
        return {}

    @abstractmethod
    def html(self, item: np.ndarray, attribution: "Tensor") -> str:
        """A sample's entry, as it is read, with its attribution."""

    @abstractmethod
    def draw(
        self, group: "Group", maps: "Mapping[str, Sequence[Tensor]]", choices: Sequence[str], folder: Path
    ) -> Path:
        """Draw samples with their attributions by each method, in a file of `folder` and in TensorBoard.

        Args:
            group: the samples.
            maps: method -> an attribution for each sample.
            choices: the names of the classes.
            folder: `explain` in the run's folder.

        Returns:
            The file, named after the group.
        """


def explainer(feature: Feature) -> Explainer:
    """That of an input.

    Raises:
        UserError: captum is not installed.
    """
    module, _, name = feature.explainer.rpartition(".")
    try:
        found: Explainer = getattr(import_module(module), name)(feature)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "captum":
            raise
        raise UserError(f"error: explain: {error}. pip install 'lab[explain]'") from error
    return found


def unexplained(inputs: Mapping[str, Feature], outputs: Mapping[str, Feature], entries: Iterable[str]) -> str:
    """Why predictions are not attributed to the inputs, in a sentence; "": they are.

    Args:
        inputs: by name.
        outputs: by name.
        entries: that the net gets.
    """
    if len(outputs) != 1 or not next(iter(outputs.values())).choices:
        return "Only the answers of a classifier are explained."
    if len(inputs) != 1:
        names = f": {', '.join(inputs)}" if inputs else ""
        return f"Only answers to one input are explained; here are {len(inputs)}{names}."
    (feature,) = inputs.values()
    entries = list(entries)
    if entries != list(feature.entries) or len(entries) != 1:
        return f"Only answers to one entry of a batch are explained; here are {len(entries)}: {', '.join(entries)}."
    return "" if feature.explainer else f"There is no method yet that explains answers to {feature.item} inputs."
