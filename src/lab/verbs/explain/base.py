"""The base class of explainers, which attribute predictions to the positions of an input. Nothing heavy is imported."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """The attribution methods for one type of input, and how an attribution is shown.

    `Feature.explainer` names the subclass for a feature. The net must take the entries of this feature only. An
    attribution has one number for each position of the explained tensor, such as a pixel or a token; channels share a
    number. This tensor is the first entry of the feature, or what `split` makes of it.

    Args:
        feature: the input.
    """

    def __init__(self, feature: Any) -> None:
        self.feature = feature

    @abstractmethod
    def methods(self) -> "dict[str, Method]":
        """The attribution methods by name. `lab serve` uses `integrated_gradients`.

        A method takes a net, its (B, …) input, and the (B,) classes to explain. It returns the contribution of each
        position to the logit of the class, (B, …).
        """

    def split(self, net: "nn.Module") -> "tuple[Callable[[Tensor], Tensor], nn.Module]":
        """Return two functions whose composition is the net: the front end, and the module that is explained.

        The front end takes the first entry of one sample, (1, …) without padding, and returns the explained tensor.

        Raises:
            UserError: the net has no such parts.
        """
        return (lambda x: x), net

    @property
    @abstractmethod
    def blank(self) -> float:
        """The value of a position that is deleted."""

    def left_out(self, net: "nn.Module", x: "Tensor") -> dict[str, str]:
        """The methods that do not work for this net, each with the reason; `x` is its (1, …) input."""
        return {}

    @abstractmethod
    def html(self, item: np.ndarray, attribution: "Tensor") -> str:
        """HTML of a sample's first entry, as it is read, with its attribution."""

    @abstractmethod
    def draw(
        self, group: "Group", maps: "Mapping[str, Sequence[Tensor]]", choices: Sequence[str], folder: Path
    ) -> Path:
        """Draw samples with their attributions by each method, into a file and into TensorBoard.

        Args:
            group: the samples.
            maps: method -> an attribution for each sample.
            choices: the names of the classes.
            folder: the folder `explain` of the run.

        Returns:
            The path of the file, which is named after the group.
        """


def explainer(feature: Feature) -> Explainer:
    """The explainer of a feature.

    Raises:
        UserError: captum is not installed.
    """
    module, _, name = feature.explainer.rpartition(".")
    try:
        instance: Explainer = getattr(import_module(module), name)(feature)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "captum":
            raise
        raise UserError(f"error: explain: {error}. pip install 'lab-template[explain]'") from error
    return instance


def unexplained(inputs: Mapping[str, Feature], outputs: Mapping[str, Feature], entries: Iterable[str]) -> str:
    """A sentence that tells why predictions cannot be explained; "" if they can.

    Args:
        inputs: the features of the inputs, by name.
        outputs: the features of the outputs, by name.
        entries: the entries of a batch that the net takes.
    """
    if len(outputs) != 1 or not next(iter(outputs.values())).explained:
        return "Only predictions of a classifier can be explained."
    if len(inputs) != 1:
        names = f": {', '.join(inputs)}" if inputs else ""
        return f"Only predictions from a single input can be explained; this run has {len(inputs)}{names}."
    (feature,) = inputs.values()
    entries = list(entries)
    if not entries or not set(entries) <= set(feature.entries):
        return f"Only predictions from one entry of the batch can be explained; this net takes {', '.join(entries)}."
    return "" if feature.explainer else f"There is no explanation method for {feature.item} inputs yet."
