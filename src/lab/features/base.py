"""Features: the types of the inputs, targets and outputs of a run. This module imports no torch."""

import json
import math
from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from lab.engine.config.allow import locate
from lab.engine.config.packages import OWN_PACKAGE, RESERVED, packages
from lab.engine.errors import UserError
from lab.engine.records import validation_error
from lab.features.files import content_of, to_bytes

Sample = dict[str, np.ndarray]  # batch entry -> the array of one sample
Arrays = dict[str, np.ndarray]  # batch entry -> an array with a row for each sample
Row = dict[str, Any]  # column -> a plain value


class TooLargeError(UserError):
    """An input is larger than a server accepts."""


class Feature(ABC):
    """The type of one input, target or output, such as an image or a class label.

    A subclass is a frozen dataclass of plain values. They are stored in the `data.json` of a run and in exported files.
    They are sufficient to read and to show samples: a feature imports no torch. The same class describes inputs and
    outputs of nets: the input of a classifier is an `Image`, and so is the output of a generator.

    A feature has one or more entries in a batch; `entries` names them. A sample is an array for each entry, without
    the batch dimension. In a batch, shorter arrays are padded with zeros. A net must be able to recognise the padding:
    by its value (token 0), or by an entry with the lengths.

    As an input, a feature is read from an item: a file path or a line of text (`find`, `read`), or the content of a
    request (`decode`, `from_json`). As an output, it is shown as columns of a table (`rows`), a file (`file`), or HTML
    (`html`). A subclass defines the methods that it needs; the other methods raise an error that says so.
    """

    entry: str  # a field: the name of the only entry. A feature with several entries overrides `entries` instead
    # Attributes that fill arguments of nets and tasks by name, such as `num_classes`, or `label_num_classes`
    fact_names: ClassVar[tuple[str, ...]] = ()
    # Attributes that fill arguments only with the name of the feature in front, such as `image_std`
    qualified_fact_names: ClassVar[tuple[str, ...]] = ()
    item: ClassVar[str] = "value"  # the word for an item in messages
    column: ClassVar[str] = ""  # the heading of the items in a table; "": the name of the feature
    content_types: ClassVar[str] = "text/"  # prefix of the content types of requests
    in_json: ClassVar[str] = "<text>"  # an item in JSON
    accept: ClassVar[str] = ""  # the files that are items, such as image/*; "": an item is typed text
    explainer: ClassVar[str] = (
        ""  # the class that explains predictions, such as "lab.verbs.explain.texts.TextExplainer"
    )

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of the feature's entries in a batch."""
        return (self.entry,)

    def facts(self) -> dict[str, Any]:
        """The values of all facts, by name."""
        return {name: getattr(self, name) for name in (*self.fact_names, *self.qualified_fact_names)}

    def changes(self, now: Self) -> list[str]:
        """The names of the facts whose values in `now` do not fit a net that was built for this feature."""
        was, found = self.facts(), now.facts()
        return [name for name in was if found[name] != was[name]]

    # as an input

    def find(self, source: str) -> Iterable[str]:
        """The items in a source, which is the value of `input=`.

        Raises:
            UserError: there is no item.
        """
        raise UserError(f"error: input: {type(self).__name__} cannot be read from files.")

    def columns(self, name: str) -> Sequence[str]:
        """The columns of a table that hold an item. A table with several inputs has the columns of each.

        Args:
            name: the name of the feature.
        """
        return (name,)

    def of_cells(self, cells: Sequence[str]) -> str:
        """Return the item in the cells of `columns`."""
        return cells[0]

    def read(self, items: Sequence[str]) -> tuple[list[Sample], list[str]]:
        """Return the samples of the readable items, and for each item the error, or "".

        An item is a file path if `accept` is set, otherwise the text that `decode` takes.
        """
        samples, errors = [], []
        for item in items:
            try:
                samples.append(self.decode(content_of(item) if self.accept else to_bytes(item), np.inf))
                errors.append("")
            except UserError as error:
                errors.append(str(error))
        return samples, errors

    def decode(self, content: bytes, max_megapixels: float) -> Sample:
        """Return the sample in the bytes of a request.

        Args:
            content: the bytes.
            max_megapixels: the largest size, in millions of pixels, or of audio samples.

        Raises:
            TooLargeError: the sample is larger than `max_megapixels`.
            UserError: the bytes are not readable.
        """
        raise UserError(f"{type(self).__name__} cannot be read from a request.")

    def from_json(self, value: Any) -> bytes:
        """Convert an item in JSON to the bytes that `decode` takes.

        Raises:
            ValueError: the value has another type, or is not encoded as expected.
        """
        if not isinstance(value, str):
            raise ValueError("expected a text")
        return value.encode()

    @property
    def free_dims(self) -> dict[str, tuple[int, ...]]:
        """The dimensions of batch entries, besides the first, that may have any size in an exported model, by entry.

        The others have the size of `example`; smaller arrays are padded.
        """
        return {}

    def example(self) -> Sample:
        """Return a sample of the largest size that an exported model takes.

        Raises:
            UserError: the feature cannot be an input.
        """
        raise UserError(f"error: {type(self).__name__} has no example, and cannot be the input of an exported model.")

    @property
    def default(self) -> str | None:
        """The item if the user gives none, such as a setting of a sampler; None: the user must give one."""
        return None

    def numbered(self, number: int) -> str | None:
        """Return the item of sample `number` where the user asks for so many samples; None: the user must give one."""
        return self.default

    def mirrored(self, arrays: Arrays) -> Arrays | None:
        """Return the mirror images, left to right, of the samples in a batch; None: samples have no mirror image."""
        return None

    @property
    def about(self) -> str:
        """A description in one line, such as "28 × 28 pixels"; "": the name is enough."""
        return ""

    # as an output

    # The columns of an output that may have any number of answers, such as boxes: each answer is a row of the table
    many: ClassVar[tuple[str, ...]] = ()

    @property
    def is_file(self) -> bool:
        """True if an output is a file, not only columns of a table."""
        return type(self).file is not Feature.file

    @property
    def choices(self) -> Sequence[str]:
        """The classes that the net has a logit for and the output a probability; empty: the output is no class."""
        return ()

    @property
    def explained(self) -> Sequence[str]:
        """The classes of `Task.explained_net`, one of which is explained; empty: there is no explanation."""
        return self.choices

    def rows(self, name: str, sample: Sample, inputs: Sample, top_k: int) -> list[Row]:
        """Return the answers in a sample, the best first, as plain values by column. The column `name` has the answer.

        Args:
            name: the name of the feature, such as "class".
            sample: the entries of this output.
            inputs: the entries of the input, such as the size of the picture before it was resized.
            top_k: the largest number of answers; an output with `many` returns all.
        """
        return []

    def file(self, sample: Sample, inputs: Sample) -> tuple[str, bytes] | None:
        """Return the suffix and the content of the file of an output, such as (".png", …); None: there is no file.

        Args:
            sample: the entries of this output.
            inputs: the entries of the input, such as the picture into which boxes are drawn.
        """
        return None

    def sheet(self, samples: Sequence[Sample]) -> tuple[str, bytes] | None:
        """Return the suffix and the content of one file that shows several outputs; None: there is none."""
        return None

    def html(self, sample: Sample) -> str:
        """Return the HTML of a sample as the net gets or returns it."""
        return ""

    def caption(self, sample: Sample) -> str:
        """Return a target in a few words, such as the name of a class; "": that is not possible."""
        return ""

    def thumbnails(self, arrays: Arrays) -> np.ndarray | None:
        """(N, C, H, W) floats in [0, 1], a small picture of each sample; None: samples are not pictures."""
        return None

    def scores(self, output: Arrays, target: Arrays) -> dict[str, float]:
        """Scores of outputs against targets of the same feature, by name; empty: no score of single samples exists."""
        return {}

    # comparison of an exported file with the checkpoint

    tolerance: ClassVar[float] = 0.0  # the largest share of samples that may differ

    def difference(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) largest absolute difference of the numbers of each sample."""
        each = [abs(a[name].astype(np.float64) - b[name]).reshape(len(a[name]), -1).max(1) for name in self.entries]
        return np.max(each, 0)

    def differs(self, a: Arrays, b: Arrays) -> np.ndarray:
        """(N,) bool, true for the samples whose answers differ.

        Floats x differ by more than 1e-4 max(1, |x|), integers by any amount. A number that is not finite differs.
        """
        return np.asarray(np.stack([_apart(a[name], b[name]) for name in self.entries]).any(0))


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    exact = a.astype(np.float64)
    most = 1e-4 * np.maximum(1, abs(exact)) if a.dtype.kind == "f" else 0
    differs: np.ndarray = ~(np.isfinite(exact) & (abs(exact - b) <= most))
    return np.asarray(differs.reshape(len(a), math.prod(a.shape[1:])).any(1))


def stack(samples: Sequence[Sample]) -> Arrays:
    """Stack samples into a batch. Shorter arrays are padded with zeros at their end."""
    return {name: _stacked([sample[name] for sample in samples]) for name in samples[0]}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    shape = np.max([array.shape for array in arrays], 0)
    out = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for i, array in enumerate(arrays):
        place: tuple[Any, ...] = (i, *map(slice, array.shape))
        out[place] = array
    return out


def sample_of(arrays: Arrays, i: int, names: Iterable[str]) -> Sample:
    """Return the entries `names` of sample i."""
    return {name: arrays[name][i] for name in names}


def zero_padded(array: np.ndarray, shape: Sequence[Any]) -> np.ndarray:
    """Pad an array with zeros up to `shape`, except its first dimension. A name in `shape` stands for any size."""
    more = [most - size if isinstance(most, int) else 0 for size, most in zip(array.shape[1:], shape[1:], strict=True)]
    return np.pad(array, [(0, 0), *((0, n) for n in more)]) if any(more) else array


def pack(features: Mapping[str, Feature]) -> dict[str, Any]:
    """Convert features to plain values, for `unpack`.

    Raises:
        UserError: the name of a feature or of an entry is not an identifier.
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
    """Read features from the plain values of a file, whoever wrote it.

    Raises:
        ValueError: a class is not a feature or may not be called, or a value is missing or wrong.
        UserError: a class is in a package that is not installed.
    """
    if not isinstance(content, dict):
        raise ValueError("features should be a mapping")
    _refuse_names(*content)
    return {name: _unpacked(name, values) for name, values in content.items()}


def _refuse_names(*names: str) -> None:
    """Raise ValueError unless names are ASCII identifiers: they become JSON keys, columns, arguments and file names."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
            raise ValueError(f"features: {str(name)[:100]!r} is not a name; expected letters, digits and _")


def _located(where: str, target: str) -> Any:
    """Return the class of a `_target_`. Only modules of `lab.features` and of installed packages are imported."""
    top, dot, _ = target.partition(".")
    installed = {name.partition(".")[0] for name in packages()}
    if not (target.startswith("lab.features.") or top in installed):
        if top in RESERVED or not (dot and top.isidentifier()):
            raise ValueError(f"{where}: {target[:100]} is not a feature")
        missing = f"error: {where}: the package {top}, which has {target[:100]}, is not installed. {OWN_PACKAGE}"
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
