"""The contract of every feature; that of texts is in test_tokens.py."""

import io
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Picture

from lab.engine.errors import UserError
from lab.features.base import Feature, pack, unpack
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.features.setting import Setting
from lab.testing import FeatureContract
from lab.verbs.predict import items


def png(*size):
    file = BytesIO()
    Picture.new("RGB", size, (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


class TestImage(FeatureContract):
    feature = Image(num_channels=3, image_size=8, mean=[0.5] * 3, std=[0.5] * 3)
    contents = (png(9, 9), png(20, 4))
    samples = ({"image": np.full((3, 8, 8), 7, np.uint8)}, {"image": np.full((3, 8, 8), 255, np.uint8)})


class TestImageOfFloats(FeatureContract):
    feature = Image(num_channels=1, image_size=2)
    samples = ({"image": np.array([[[0, 1.5], [-0.5, 1]]], np.float32)},)


class TestClassLabel(FeatureContract):
    feature = ClassLabel(["a", "b"])
    contents = (b"a", b"b")
    samples = ({"label": np.array([0.2, 0.8], np.float32)}, {"label": np.array([0.9, 0.1], np.float32)})


class TestSetting(FeatureContract):
    feature = Setting("guidance", 1, 0, 20)
    contents = (b"2", b" 0.5\n", b"1e1")
    samples = ({"guidance": np.array(2, np.float32)},)

    @pytest.mark.parametrize("value", [b"", b"x", b"nan", b"inf", b"0.5", b"0", b"11", b"1_0"])
    def test_other_values_are_refused(self, value):
        with pytest.raises(UserError, match="expected an integer from 1 to 10"):
            Setting("steps", 4, 1, 10, is_integer=True).decode(value, np.inf)

    def test_the_default_is_in_the_range(self):
        with pytest.raises(ValueError, match="expected 1 <= 0 <= 10"):
            Setting("steps", 0, 1, 10)


class TestNumbers(FeatureContract):
    feature = Numbers(["x", "y"])
    contents = (b"1,2", b"3.5,4")
    samples = ({"numbers": np.array([1, 2], np.float32)},)


XY, ALL = Numbers(["x", "y"]), np.inf


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1e999", "1e39", "1_0", "abc", "", " ", "é", "1" * 10**6])
def test_only_finite_numbers_are_numbers(cell):
    with pytest.raises(UserError, match="^y is .*; expected finite float32 numbers$") as error:
        XY.decode(f"1,{cell}".encode("latin-1"), ALL)
    assert len(str(error.value)) < 100
    assert XY.decode(b" 1e38,-2 ", ALL)["numbers"].tolist() == [np.float32(1e38), -2]


def test_numbers_in_json_are_a_list_or_their_csv():
    for value in ([1, 2.5], "1,2.5", " 1, 2.5"):
        assert XY.decode(XY.from_json(value), ALL)["numbers"].tolist() == [1, 2.5]
    assert Numbers(["x"]).from_json(7) == b"7"
    for value in ([1], [1] * 10**6, [1, True], [1, "2"], [[1, 2]], 10**5000, "\ud800"):
        with pytest.raises(ValueError, match="numbers|surrogates|digits"):
            XY.from_json(value)
    for value in ("1,2,3", [1, float("nan")], [1, float("inf")], ",".join("1" * 10**6)):
        with pytest.raises(UserError, match="expected"):
            XY.decode(XY.from_json(value), ALL)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x,y\n", "it has no rows"),
        (b"", "it has no column x"),
        (b"x,z\n1,2\n", "it has no column y; expected a column for each of x, y"),
        (b"x,y,x\n1,2,3\n", "it has 2 columns x"),
        ("x,y\n1,2\n".encode("utf-16"), "it is UTF-16"),
    ],
)
@pytest.mark.parametrize("inputs", [{"row": XY}, {"row": XY, "none": Numbers([])}])
def test_a_table_that_is_none_is_refused_before_its_first_item(inputs, content, said, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"^error: input=.*t.csv: {said}") as error:
        items.find(inputs, str(tmp_path / "t.csv"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "said"), [("", "it is a folder"), ("none", "no such file"), ("a\0b", "can't be read")]
)
def test_what_is_no_file_is_refused(name, said, tmp_path):
    with pytest.raises(UserError, match=said):
        XY.find(f"{tmp_path}/{name}")


def test_rows_of_standard_input_and_of_other_encodings(monkeypatch, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfname,y,x\nM\xfcller,2,1\n\nb,\xff,3\nc,4\n")
    expected = [("1,2", ""), ("3,\udcff", "y is"), (",4", "x is empty")]
    with open(tmp_path / "t.csv", "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        for source in ("-", str(tmp_path / "t.csv")):
            found = list(XY.find(source))
            assert found == [item for item, _ in expected]
            samples, errors = XY.read(found)
            assert len(samples) == 1
            assert all(error.startswith(said) for error, (_, said) in zip(errors, expected, strict=True))


def test_numbers_beside_other_inputs_have_their_own_columns(tmp_path):
    (tmp_path / "t.csv").write_text("b,x,kind,y\n0,1,k,2\n0,5,k\n")
    first, second = items.find({"row": XY, "kind": ClassLabel(["k"]), "more": Numbers(["b"])}, str(tmp_path / "t.csv"))
    assert first.cells == {"row": "1,2", "kind": "k", "more": "0"}
    assert second.error == "it has no row"
    assert items.columns_of({"a": XY, "b": Numbers(["x", "z"])}) == {"a": ["a_x", "y"], "b": ["b_x", "z"]}


@pytest.mark.parametrize(
    ("a", "b", "differs"),
    [
        (1e6, 1e6 + 1, False), (350_000, 350_000.5, False), (1e6, 1e6 + 200, True), (-1e6, 1e6, True),
        (0, 5e-5, False), (0.5, 0.5002, True), (1, np.nan, True), (np.nan, np.nan, True), (np.inf, 1, True),
        (1, np.inf, True),
    ],
)  # fmt: skip
def test_numbers_differ_relative_to_their_size(a, b, differs):
    one, other = ({"numbers": np.array([[7, x]], np.float32)} for x in (a, b))
    assert XY.differs(one, other).tolist() == [differs]


def test_whole_numbers_are_exact():
    one, other = ({"image": np.full((2, 1, 2, 2), x)} for x in (10**6, 10**6 + 1))
    assert Image(1, 2).differs(one, other).all()
    assert not Image(1, 2).differs(one, one).any()


@pytest.mark.parametrize("name", ["a/b", "a\0", "", "a b", "ä", "a-b", "../a", "1a"])
def test_names_are_words(name):
    with pytest.raises(UserError, match="^error: features: .* is not a name; expected letters, digits and _$"):
        pack({name: XY})
    with pytest.raises(UserError, match="is not a name"):
        pack({"row": Numbers(["x"], entry=name)})
    with pytest.raises(ValueError, match="is not a name"):
        unpack({name: pack({"row": XY})["row"]})
    with pytest.raises(ValueError, match="is not a name"):
        unpack({"row": pack({"row": XY})["row"] | {"entry": name}})


def test_what_is_not_a_feature_is_not_imported():
    code = """
import sys
from lab.features.base import unpack
for target in ("lab.data.images.Digits", "lab.tasks.base.Task", "torch.load", "lab.nets.mlp.MLP"):
    try:
        unpack({"row": {"_target_": target}})
    except ValueError as error:
        assert str(error) == f"features.row: {target} is not a feature", error
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@dataclass(frozen=True)
class Photo(Image):
    """A file that is read as a fork's own feature would."""

    read = Feature.read


def test_a_feature_of_files_opens_them(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9, 9))
    (tmp_path / "é\udcff.png").write_bytes(png(9, 9))
    (tmp_path / "b.png").write_bytes(b"garbage")
    names = ["a.png", "é\udcff.png", "b.png", "none.png", "a\0b", "\ud800.png", ""]
    samples, errors = Photo(3, 8).read([f"{tmp_path}/{name}" for name in names])
    assert [sample["image"].shape for sample in samples] == [(3, 8, 8)] * 2
    said = ["", "", "not an image", "No such file", "null byte", "surrogates not allowed", "Is a directory"]
    assert all(text in error for text, error in zip(said, errors, strict=True)), errors
    assert [bool(error) for error in errors] == [bool(text) for text in said]


@pytest.mark.parametrize("feature", [XY, ClassLabel(["a"])])
def test_half_a_surrogate_pair_is_an_error_in_a_line(feature):
    samples, errors = feature.read(["\ud800", "\udcff"])
    assert not samples
    assert errors[0] == "\\ud800 is not UTF-8"
    assert errors[1]


PLACES = ClassLabel([" New York", "Paris ", "Bonn", " Rome", "Rome ", "\tx\r"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" New York", 0), (" New York\n", 0), ("New York", 0), ("Paris ", 1), ("Paris\r\n", 1), (" Bonn\n", 2),
        (" Rome", 3), ("Rome \r\n", 4), ("\tx\r", 5), ("x", 5), ("Rome", None), ("bonn", None), ("", None),
    ],
)  # fmt: skip
def test_a_class_is_chosen_by_its_name_as_it_is(text, number):
    if number is None:
        with pytest.raises(UserError, match="is not a class"):
            PLACES.decode(text.encode(), ALL)
    else:
        assert PLACES.decode(text.encode(), ALL)["label"] == number
