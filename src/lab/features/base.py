"""The types of a run's inputs, targets and outputs, without torch."""

import json
import math
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from lab.engine.config.allow import locate
from lab.engine.config.packages import RESERVED, packages
from lab.engine.errors import UserError
from lab.engine.records import validation_error
from lab.features.files import content_of, utf8

Sample = dict[str, np.ndarray]  # batch entry -> the array of one sample
Arrays = dict[str, np.ndarray]  # batch entry -> an array with a row for each sample
Row = dict[str, Any]  # column -> a plain value


class TooLargeError(UserError):
    """More than a server takes."""


class Feature(ABC):
    """The type of one input, target or output, such as an image or a class label.

    A subclass is a frozen dataclass of plain values. They are stored in a run's `data.json` and in exported files, and
    are all that is needed to read and to show: a feature imports no torch. The same class describes what a net takes
    and what it makes: a classifier takes an `Image`, a generator makes one.

    A feature makes one or more entries of a batch; `entries` names them. A sample is an array for each entry, without
    the batch dimension. In a batch shorter arrays are padded with zeros, so a net has to know the padding: by a mask
    (token 0), or by an entry with the lengths.

    As an input, a feature is read from an item that a user names: a file's path, a line of text (`find`, `read`), or
    the content of a request (`decode`, `from_json`). As an output, it is shown as columns of a table (`rows`), a file
    (`file`), or HTML (`html`). A subclass defines the methods that its use needs; the others say what is missing.
    """

    entry: str  # a field: the name of the only entry. A feature with several entries overrides `entries` instead
    # Attributes that fill the arguments of nets and tasks by name: `num_classes`, or `label_num_classes`
    fact_names: ClassVar[tuple[str, ...]] = ()
    # The same, only with the feature's name before them, for the bare name means other things too: `image_std`
    qualified_fact_names: ClassVar[tuple[str, ...]] = ()
    item: ClassVar[str] = "value"  # what people call an item
    column: ClassVar[str] = ""  # the heading of items in a table; "": the feature's name
    content_types: ClassVar[str] = "text/"  # the beginning of the types of a request's body
    in_json: ClassVar[str] = "<text>"  # how an item looks in JSON
    accept: ClassVar[str] = ""  # the files that an item is, such as image/*; "": it is typed
    explainer: ClassVar[str] = ""  # the class that attributes answers to it: "lab.verbs.explain.images.ImageExplainer"

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of the feature's entries in a batch."""
        return (self.entry,)

    def facts(self) -> dict[str, Any]:
        """The values of all facts by their bare names."""
        return {name: getattr(self, name) for name in (*self.fact_names, *self.qualified_fact_names)}

    def changes(self, now: Self) -> list[str]:
        """The facts that a net of this feature does not work without, and that `now` states differently."""
        was, found = self.facts(), now.facts()
        return [name for name in was if found[name] != was[name]]

    # as an input

    def find(self, source: str) -> Iterable[str]:
        """The items that `input=SOURCE` stands for.

        Raises:
            UserError: there are none.
        """
        raise UserError(f"error: input: {type(self).__name__} cannot be read from files.")

    def columns(self, name: str) -> Sequence[str]:
        """The columns of a table in whose rows an item is, beside those of other inputs.

        Args:
            name: of the feature.
        """
        return (name,)

    def of_cells(self, cells: Sequence[str]) -> str:
        """The item in the cells of `columns`."""
        return cells[0]

    def read(self, items: Sequence[str]) -> tuple[list[Sample], list[str]]:
        """The samples of the readable items, and for each item the error, or "".

        An item is a file's path if `accept` is set, else what `decode` takes.
        """
        samples, errors = [], []
        for item in items:
            try:
                samples.append(self.decode(content_of(item) if self.accept else utf8(item), np.inf))
                errors.append("")
            except UserError as error:
                errors.append(str(error))
        return samples, errors

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        """The sample in the bytes of a request.

        Raises:
            TooLargeError: it is larger than `max_megapixels`.
            UserError: it is not readable.
        """
        raise UserError(f"{type(self).__name__} cannot be read from a request.")

    def from_json(self, value: Any) -> bytes:
        """The content of an item in JSON, for `decode`.

        Raises:
            ValueError: it is another type, or not encoded as expected.
        """
        if not isinstance(value, str):
            raise ValueError("expected a text")
        return value.encode()

    def example(self) -> Sample:
        """A sample of the largest size, which an exported model takes.

        Raises:
            UserError: it cannot be an input.
        """
        raise UserError(f"error: {type(self).__name__} has no example, and cannot be the input of an exported model.")

    def mirrored(self, arrays: Arrays) -> Arrays | None:
        """The samples of a batch, left and right exchanged; None: they have no mirror image."""
        return None

    @property
    def about(self) -> str:
        """A description in one line, such as "28 × 28 pixels"; "": its name says enough."""
        return ""

    # as an output

    @property
    def is_file(self) -> bool:
        """Whether an output is a file, and no columns of a table alone."""
        return type(self).file is not Feature.file

    @property
    def choices(self) -> Sequence[str]:
        """The answers that it chooses from: the net has a logit for each, the output a probability; none: no choice."""
        return ()

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        """The answers in a sample, the best first, as plain values by column; a column `name` is the answer in a word.

        Args:
            name: of the feature, such as "class".
            sample: this output's entries.
            inputs: the entries of the item that it belongs to, such as the size of the picture before it was scaled.
            top_k: the most answers.
        """
        return []

    def file(self, sample: Sample) -> tuple[str, bytes] | None:
        """The suffix and the content of an output's file, such as (".png", …); None: it is in the table."""
        return None

    def html(self, sample: Sample) -> str:
        """A sample as the net gets it, or makes it."""
        return ""

    def caption(self, sample: Sample) -> str:
        """A target in a few words, such as the name of a class; "": it takes more."""
        return ""

    def thumbnails(self, arrays: Arrays) -> np.ndarray | None:
        """(N, C, H, W) floats in [0, 1], a small picture of each sample; None: it is no picture."""
        return None

    def scores(self, output: Arrays, target: Arrays) -> dict[str, float]:
        """Scores of outputs against targets of the same feature, by name; empty: they cannot be compared one by one."""
        return {}

    # how an exported file is compared with the checkpoint

    tolerance: ClassVar[float] = 0.0  # the share of the samples that may differ

    def difference(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) the largest difference of each sample's numbers."""
        each = [abs(a[name].astype(np.float64) - b[name]).reshape(len(a[name]), -1).max(1) for name in self.entries]
        return np.max(each, 0)

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) whether the samples' answers are different: a float x by more than 1e-4 max(1, |x|), an integer at all.

        What is not finite differs.
        """
        return np.asarray(np.stack([_apart(a[name], b[name]) for name in self.entries]).any(0))


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    exact = a.astype(np.float64)
    most = 1e-4 * np.maximum(1, abs(exact)) if a.dtype.kind == "f" else 0
    differs: np.ndarray = ~(np.isfinite(exact) & (abs(exact - b) <= most))
    return np.asarray(differs.reshape(len(a), math.prod(a.shape[1:])).any(1))


def stack(samples: Sequence[Sample]) -> Arrays:
    """A batch; the end of a shorter array is filled with zeros."""
    return {name: _stacked([sample[name] for sample in samples]) for name in samples[0]}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shape = np.max([array.shape for array in arrays], 0)
    out = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for i, array in enumerate(arrays):
        place: tuple[Any, ...] = (i, *map(slice, array.shape))
        out[place] = array
    return out


def sample_of(arrays: Arrays, i: int, names: Iterable[str]) -> Sample:
    """The entries of these names, of sample i."""
    return {name: arrays[name][i] for name in names}


def padded(array: np.ndarray, shape: Sequence[Any]) -> np.ndarray:
    """With zeros at the end of each dimension but the first, up to `shape`, whose names stand for any size."""
    more = [most - size if isinstance(most, int) else 0 for size, most in zip(array.shape[1:], shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *((0, n) for n in more)]) if any(more) else array


def pack(features: Mapping[str, Feature]) -> dict[str, Any]:
    """Features as plain values, for `unpack`.

    Raises:
        UserError: a feature, or an entry that it makes, has a name that is no word.
    """
    try:
        for name, feature in features.items():
            _refuse_names(name, *feature.entries)
    except ValueError as error:
        raise UserError(f"error: {error}") from error
    return {
        name: {"_target_": f"{type(feature).__module__}.{type(feature).__qualname__}"} | asdict(feature)  # type: ignore[call-overload]
        for name, feature in features.items()
    }


def unpack(content: Any) -> dict[str, Feature]:
    """The features in plain values that somebody stored.

    Raises:
        ValueError: they name what is not a feature, or what may not be called; or a value is missing or wrong.
        UserError: they take a package that is not installed.
    """
    if not isinstance(content, dict):
        raise ValueError("features should be a mapping")
    _refuse_names(*content)
    return {name: _unpacked(name, values) for name, values in content.items()}


def _refuse_names(*names: str) -> None:
    """Features and entries are keys of JSON, columns, parts of arguments and of files' names."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
            raise ValueError(f"features: {str(name)[:100]!r} is no name; expected letters, digits and _")


def _located(where: str, target: str) -> Any:
    """The class that a `_target_` names. Only modules of `lab.features` and of installed packages are imported."""
    top, dot, _ = target.partition(".")
    installed = {name.partition(".")[0] for name in packages()}
    if not (target.startswith("lab.features.") or top in installed):
        if top in RESERVED or not (dot and top.isidentifier()):
            raise ValueError(f"{where}: {target[:100]} is not a feature")
        missing = (
            f"error: {where}: the package {top}, which has {target[:100]}, is not installed."
            " Run lab inside the project that has it, or install it."
        )
        raise UserError(missing) from ModuleNotFoundError(top)
    try:
        return locate(target)
    except ImportError as error:
        raise ValueError(f"{where}: {target[:100]}: {' '.join(str(error).split())}") from error


def _unpacked(name: str, values: Any) -> Feature:
    where = f"features.{name}"
    if not isinstance(values, dict) or not isinstance(values.get("_target_"), str):
        raise ValueError(f"{where} should name a class with _target_")
    kind = _located(where, values["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Feature) and is_dataclass(kind)):
        raise ValueError(f"{where}: {values['_target_']} is not a feature")
    given, known = values.keys() - {"_target_"}, {field.name for field in fields(kind)}
    if given != known:
        different = " and ".join(sorted(given ^ known))
        raise ValueError(f"{where}: {different}: {kind.__name__} has {', '.join(sorted(known))}")
    try:
        feature: Feature = TypeAdapter(kind).validate_json(json.dumps({key: values[key] for key in known}), strict=True)
    except ValidationError as error:
        raise ValueError(f"{where}.{validation_error(error)}") from error
    _refuse_names(*feature.entries)
    return feature
