"""The verbs with inputs and outputs that no shipped task has: several, files, columns that depend on the item."""

import asyncio
import base64
import csv
import io
import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from fastapi.testclient import TestClient
from torch import nn

from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.features.base import Feature
from lab.features.image import Image
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.verbs import predictor
from lab.verbs.export import comparison
from lab.verbs.export import main as export
from lab.verbs.export import program as exported
from lab.verbs.predict import main as predict
from lab.verbs.predictor import Predictor
from lab.verbs.serve.form import Form
from lab.verbs.serve.server import PAGE, build

WORDS = ClassLabel(["dark", "light", "<b>"], entry="word")
IMAGE, SIZE = Image(1, 2), Numbers(["width", "height"], entry="size")
SHADE = ClassLabel(["dark", "light"], entry="shade")
MEAN = Numbers(["level"], entry="mean")
PICTURE = Image(1, 2, entry="picture")


@dataclass(frozen=True)
class Points(Feature):
    """(3,) shares of the width of the item; those below 0 are none."""

    @property
    def entries(self):
        return ("points",)

    def rows(self, name, sample, inputs, top_k):
        return [{name: round(float(x * inputs["size"][0]), 1)} for x in sample["points"][:top_k] if x >= 0]


@dataclass(frozen=True)
class Anything(Feature):
    """A text of any kind, of which nothing is read."""

    @property
    def entries(self):
        return ("anything",)

    def example(self):
        return {"anything": np.zeros(1)}

    def read(self, items):
        return [self.example() for _ in items], ["" for _ in items]


def brightness(arrays):
    return arrays["image"].astype(np.float32).mean((1, 2, 3)) / 255


def made(outputs):
    """A function that makes the entries of these outputs from `image`, or from `index`."""

    def run(arrays):
        num = len(arrays["index"])
        level = brightness(arrays) if "image" in arrays else arrays["index"].astype(np.float32) / 10
        every = {
            "shade": np.stack([1 - level, level], 1),
            "mean": level[:, None],
            "picture": np.broadcast_to(level[:, None, None, None], (num, 1, 2, 2)),
            "points": np.stack([level, level / 2, level - 0.5], 1),
        }
        return {entry: every[entry] for feature in outputs.values() for entry in feature.entries}

    return run


def asks(inputs, outputs, **more):
    return Predictor(inputs, outputs, made(outputs), **more)


def png(level):
    file = io.BytesIO()
    PIL.Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def predict_to(monkeypatch, tmp_path):
    """`lab predict` with a predictor, in a folder with two pictures."""
    (tmp_path / "in").mkdir()
    for name, level in (("a", 255), ("b", 51)):
        (tmp_path / f"in/{name}.png").write_bytes(png(level))
    monkeypatch.chdir(tmp_path)

    def predict_to(asked, source, output, *overrides):
        monkeypatch.setattr(predictor, "from_onnx", lambda _: asked)
        predict.main(compose_config("predict", ["model=x.onnx", f"input={source}", f"output={output}", *overrides]))

    return predict_to


@pytest.fixture
def ask(predict_to, tmp_path):
    """The same, and the rows that were written."""

    def ask(asked, source, *overrides, output="out.csv"):
        predict_to(asked, source, output, *overrides)
        if output.endswith(".csv"):
            return list(csv.DictReader((tmp_path / output).read_text().splitlines()))
        return [json.loads(line) for line in (tmp_path / output).read_text().splitlines()] if output != "-" else None

    return ask


TWO = {"image": IMAGE, "text": WORDS}


def test_several_inputs_are_the_columns_of_a_table(ask, tmp_path):
    (tmp_path / "in/table.csv").write_text("text,more,image\ndark,1,a.png\n<b>,2,b.png\nlight,3,none.png\nlight,4,\n")
    with pytest.raises(RunError, match="2 of 4 items could not be read"):
        ask(asks(TWO, {"shade": SHADE}), "in/table.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [*rows[0]] == ["image", "text", "shade", "probability", "shade_2", "probability_2", "error"]
    assert [(row["image"], row["text"], row["shade"]) for row in rows[:2]] == [
        ("in/a.png", "dark", "light"), ("in/b.png", "<b>", "dark"),
    ]  # fmt: skip
    assert rows[2]["error"].startswith("image: ")
    assert rows[3]["error"] == "it has no image"


def test_several_inputs_are_the_keys_of_json_lines(ask, tmp_path):
    lines = [
        '{"image": "a.png", "size": [3, 4.5]}',
        '{"image": "b.png", "size": "1,2"}',
        '{"image": "a.png"}',
        "{",
        "7",
    ]
    lines += [
        '{"image": "a.png", "size": ["x"]}',
        '{"image": "a.png", "size": [1]}',
        '{"image": 7, "size": [1, 2]}',
        "",
    ]
    (tmp_path / "in/table.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunError, match="6 of 8 items could not be read"):
        ask(asks({"image": IMAGE, "size": SIZE}, {"shade": SHADE}), "in/table.jsonl", output="out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["shade"] for row in rows] == ["light", "dark", *[None] * 6]
    said = [
        "",
        "",
        "no size",
        "not JSON",
        "not a JSON object",
        "list of numbers",
        "expected 2",
        "image: expected the path of a file",
    ]
    assert all(text in row["error"] for text, row in zip(said, rows, strict=True)), [row["error"] for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "image,words\na.png,x\n", "it has no column text; expected a column for each of image, text"),
        ("t.csv", "image,text\n", "it has no rows"),
        ("t.jsonl", "", "it has no rows"),
        ("t.txt", "a.png", "the inputs image and text need a .csv or .jsonl table"),
        ("t.csv", "image,text\n".encode("utf-16"), "it is UTF-16"),
        ("none.csv", None, "there is no such file"),
    ],
)
def test_a_table_that_lacks_an_input_is_refused(name, content, said, ask, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as error:
        ask(asks(TWO, {"shade": SHADE}), name)
    assert len(str(error.value).splitlines()) == 1


def test_several_outputs_stand_side_by_side(ask, capsys):
    rows = ask(asks({"image": IMAGE}, {"shade": SHADE, "mean": MEAN}), "in", "top_k=1")
    assert rows[0] == {
        "path": "in/a.png", "shade": "light", "shade_probability": "1.0000", "mean_level": "1.0000", "error": "",
    }  # fmt: skip
    assert "in/b.png  shade: 0.8000  dark, mean: level 0.2" in capsys.readouterr().out
    ask(asks({"image": IMAGE}, {"shade": SHADE, "mean": MEAN}), "in", output="-")
    assert capsys.readouterr().out == "shade: light, mean: level 1.0\nshade: dark, mean: level 0.2\n"


def test_an_output_that_is_a_file_is_written_beside_the_table(ask, tmp_path, capsys):
    rows = ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in")
    assert [row["picture"] for row in rows] == ["out/000001.png", "out/000002.png"]
    assert [PIL.Image.open(row["picture"]).getpixel((0, 0)) for row in rows] == [255, 51]
    assert "picture: files in out" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    several = {"picture": PICTURE, "copy": PICTURE, "shade": SHADE}
    (row, _) = ask(asks({"image": IMAGE}, several), "in", "top_k=1", output="other/out.jsonl")
    assert [*row.values()][1:4] == ["out/000001_picture.png", "out/000001_copy.png", "light"]
    with pytest.raises(UserError, match="^error: output=-: picture is a file for each item; choose output="):
        ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in", output="-")


@pytest.mark.parametrize(
    ("prepare", "source", "said"),
    [
        (lambda path: path.mkdir() or (path / "000001.png").write_bytes(b"mine"), "in", "the folder out is not empty"),
        (lambda path: path.symlink_to("in"), "in", "out exists and is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "in", "out exists and is not a folder"),
        (lambda path: path.write_bytes(b"mine"), "in", "out exists and is not a folder"),
        (lambda path: path.mkdir() or (path / "x.png").write_bytes(png(9)), "out", "the folder out is not empty"),
    ],
)
def test_files_of_outputs_replace_nothing(prepare, source, said, ask, tmp_path):
    prepare(tmp_path / "out")
    (tmp_path / "out.csv").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"^error: output=out.csv: {said}.*choose another name.$"):
        ask(asks({"image": IMAGE}, {"picture": PICTURE}), source)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_appears_while_answers_are_written_stays(ask, tmp_path):
    def predict(arrays):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/000002.png").write_bytes(b"mine")
        return made({"picture": PICTURE})(arrays)

    (tmp_path / "in/table.jsonl").write_text('{"image": "a.png", "text": "dark"}\n' * 2)
    first = iter([made({"picture": PICTURE})])  # of the example
    asked = Predictor(TWO, {"picture": PICTURE}, lambda x: next(first, predict)(x))
    with pytest.raises(RunError, match=r"^error: output=out/000002.png: it could not be written: File exists"):
        ask(asked, "in/table.jsonl")
    assert (tmp_path / "out/000002.png").read_bytes() == b"mine"


def test_files_that_predict_wrote_are_read_from_its_table(ask, tmp_path):
    (tmp_path / "deep").mkdir()
    ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in", output="deep/made.csv")
    inputs = {"picture": IMAGE, "path": WORDS}
    (tmp_path / "deep/made.csv").write_text((tmp_path / "deep/made.csv").read_text().replace("in/a.png", "dark"))
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks(inputs, {"mean": MEAN}), "deep/made.csv")
    (row, _) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["picture"], row["level"], row["error"]) == ("deep/made/000001.png", "1.0000", "")


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_columns_may_depend_on_the_item(output, ask, tmp_path):
    """The width of each item scales its points, and a dark picture has two, a bright one three."""
    lines = [f'{{"image": "b.png", "size": [{10 * i}, 1]}}' for i in range(1, 70)]
    (tmp_path / "in/t.jsonl").write_text("\n".join([*lines, '{"image": "a.png", "size": [10, 1]}']))
    dark = Predictor({"image": IMAGE, "size": SIZE}, {"at": Points()}, lambda x: made({"at": Points()})(as_dark(x)))
    rows = ask(dark, "in/t.jsonl", output=output)
    assert [float(rows[i][key]) for i in (0, 1, 69) for key in ("at", "at_2")] == [2, 1, 4, 2, 10, 5]
    assert float(rows[69]["at_3"]) == 5
    assert not rows[0].get("at_3")


def as_dark(arrays):
    """The example is dark too, so that the table begins without the third point."""
    return arrays | {"image": np.where((arrays["image"] == 1).all((1, 2, 3), keepdims=True), 51, arrays["image"])}


def test_a_column_that_an_input_has_gets_another_name(ask, tmp_path):
    (tmp_path / "lines").write_text("dark\n")
    (row,) = ask(asks({"text": WORDS}, {"class": SHADE}), "lines")
    assert (row["class"], row["predicted_class"], row["class_2"]) == ("dark", "dark", "light")


@pytest.mark.parametrize("value", ['["a.png"]', '{"path": "a.png"}', "true", "1.5"])
def test_what_is_not_the_path_of_a_file_is_refused(value, ask, tmp_path):
    (tmp_path / "in/t.jsonl").write_text(f'{{"image": {value}, "text": "dark"}}')
    with pytest.raises(RunError, match="1 of 1 items could not be read"):
        ask(asks(TWO, {"shade": SHADE}), "in/t.jsonl", output="out.jsonl")
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["error"] == "image: expected the path of a file"


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "-"])
@pytest.mark.parametrize("text", [r"\ud83d", r"dark\udc80", r"\udfff\ud800"])
def test_half_a_surrogate_pair_is_written_as_an_escape(text, output, predict_to, tmp_path):
    """JSON has it, UTF-8 has not. A byte that is no UTF-8 stays that byte."""
    (tmp_path / "in/t.jsonl").write_text(f'{{"image": "a.png", "label": "{text}"}}\n')
    inputs = {"image": IMAGE, "label": Anything()}
    predict_to(asks(inputs, {"shade": SHADE}), "in/t.jsonl", output)
    if output != "-":
        written = (tmp_path / output).read_bytes()
        assert b"light" in written
        assert text[-5:].encode() in written or b"\x80" in written


@pytest.mark.parametrize(
    ("outputs", "columns"),
    [
        ({"a": Numbers(["b_c"], entry="mean"), "a_b": Numbers(["c"], entry="mean")}, ["a_b_c", "predicted_a_b_c"]),
        ({"error": Numbers(["error"], entry="mean")}, ["predicted_error"]),
        ({"m": Numbers(["path"], entry="mean"), "path": SHADE}, ["m_path", "predicted_path", "path_probability"]),
    ],
)
def test_two_columns_of_one_name_get_two(outputs, columns, ask):
    (row, _) = ask(asks({"image": IMAGE}, outputs), "in", "top_k=1")
    assert [*row] == ["path", *columns, "error"]
    assert set(row.values()) <= {"in/a.png", "1.0000", "light", ""}
    assert all(row[name] for name in columns)


def test_an_input_of_the_name_error_does_not_hide_the_errors(ask, tmp_path):
    (tmp_path / "in/t.csv").write_text("image,error\na.png,dark\nnone.png,light\n")
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks({"image": IMAGE, "error": WORDS}, {"mean": MEAN}), "in/t.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["input_error"], row["error"][:6]) for row in rows] == [("dark", ""), ("light", "image:")]


def test_a_number_of_the_name_probability_is_no_percentage(ask, capsys):
    ask(asks({"image": IMAGE}, {"price": Numbers(["probability"], entry="mean")}), "in")
    assert "in/a.png  probability 1.0\n" in capsys.readouterr().out


def test_a_linked_table_with_more_columns_stays_a_link(ask, tmp_path):
    lines = [f'{{"image": "{name}.png", "size": [10, 1]}}' for name in "ba"]
    (tmp_path / "in/t.jsonl").write_text("\n".join(lines))
    (tmp_path / "out.csv").symlink_to("in/table.csv")
    (tmp_path / "in/table.csv.whole").write_text("mine")
    inputs = {"image": IMAGE, "size": SIZE}
    rows = ask(Predictor(inputs, {"at": Points()}, lambda x: made({"at": Points()})(as_dark(x))), "in/t.jsonl")
    assert float(rows[1]["at_3"]) == 5
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "in/table.csv.whole").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [
        "a.png", "b.png", "t.jsonl", "table.csv", "table.csv.whole",
    ]  # fmt: skip


def test_what_is_drawn_depends_on_the_number_of_the_item(ask):
    outputs = {"mean": MEAN}
    drawn = Predictor({"image": IMAGE}, outputs, lambda x: made(outputs)({"index": x["index"]}))
    rows = ask(drawn, "in")
    assert [row["level"] for row in rows] == ["0.0000", "0.1000"]
    with client(drawn) as asked:
        assert [asked.post("/predict", files={"file": png(9)}).json()["level"] for _ in "ab"] == [0, 0]


def test_an_unconditional_generator_is_refused_in_a_sentence(ask):
    with pytest.raises(UserError, match=r"^error: model=x.onnx: it takes no inputs") as error:
        ask(asks({}, {"picture": PICTURE}), "in")
    assert len(str(error.value).splitlines()) == 1


def test_a_class_is_an_input_by_its_name(ask, tmp_path):
    (tmp_path / "lines").write_text("light\nred\n")
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks({"label": ClassLabel(["dark", "light"])}, {"picture": PICTURE}), "lines")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["class"], row["picture"]) for row in rows] == [("light", "out/000001.png"), ("red", "")]
    assert rows[1]["error"] == "red is not a class; the classes are dark, light."


def test_only_probabilities_have_a_mean_over_mirror_images():
    for outputs in ({"picture": PICTURE}, {"shade": SHADE, "mean": MEAN}):
        with pytest.raises(UserError, match="flip: only class probabilities can be averaged, not (picture|mean)"):
            predictor.with_flip(asks({"image": IMAGE}, outputs))
    with pytest.raises(UserError, match="flip: size and text inputs cannot be mirrored"):
        predictor.with_flip(asks({"size": SIZE, "text": WORDS}, {"shade": SHADE}))


def client(asked):
    return TestClient(build(compose_config("serve", ["model=x.onnx"]), asked, "x", {"testserver"}))


def test_a_server_takes_several_inputs_and_gives_several_outputs():
    outputs = {"shade": SHADE, "mean": MEAN, "picture": PICTURE}
    asked = asks(TWO | {"size": SIZE}, outputs, unexplained="Nobody knows <why>.")
    as_json = {"image": base64.b64encode(png(51)).decode(), "text": "dark", "size": [1, 2]}
    with client(asked) as served:
        health = served.get("/health").json()
        assert {name: each["accept"] for name, each in health["inputs"].items()} == {
            "image": "image/*", "text": "", "size": "",
        }  # fmt: skip
        assert [*health["outputs"]] == [*outputs]
        by_json = served.post("/predict", json=as_json).json()
        form = {"files": {"image": png(51)}, "data": {"text": "dark", "size": "1,2"}}
        assert served.post("/predict", **form).json() == by_json
        assert (by_json["shade"], by_json["shade_probability"], by_json["mean_level"]) == ("dark", 0.8, 0.2)
        assert by_json["top"]["shade"][1] == {"shade": "light", "probability": 0.2}
        kind, _, content = by_json["picture"].partition(",")
        assert kind == "data:image/png;base64"
        assert PIL.Image.open(io.BytesIO(base64.b64decode(content))).getpixel((0, 0)) == 51
        explained = served.post("/explain", json=as_json | {"text": "<b>"}).json()
        assert (explained["explanation"], explained["why"]) == (None, "Nobody knows <why>.")
        assert explained["inputs"]["text"] == "&lt;b&gt;"
        assert explained["outputs"]["picture"].startswith("<img ")
        bad = [
            (422, 'no "size"', {"json": {k: v for k, v in as_json.items() if k != "size"}}),
            (422, '"size": expected', {"json": as_json | {"size": ["x"]}}),
            (422, "it has 1 numbers; expected 2: width, height", {"json": as_json | {"size": [1]}}),
            (400, "size: height is x; expected finite", {"json": as_json | {"size": "1,x"}}),
            (400, "image: The file is not an image", {"json": as_json | {"image": "aGVsbG8="}}),
            (422, 'no part named "size"', {"files": {"image": png(9)}, "data": {"text": "x"}}),
            (
                415,
                "a multipart form with image and text and size",
                {"content": b"x", "headers": {"Content-Type": "image/png"}},
            ),
            (400, "Too many files", {"files": [("image", png(1))] * 4}),
        ]
        for status, said, request in bad:
            response = served.post("/predict", **request)
            assert (response.status_code, said in response.json()["error"]) == (status, True), response.text


@pytest.mark.parametrize(("inputs", "request_"), [
    ({"size": SIZE}, {"json": {"size": [1, 2]}}),
    ({"size": SIZE}, {"content": b"1,2", "headers": {"Content-Type": "text/plain"}}),
    ({"kind": SHADE}, {"json": {"kind": "light"}}),
    ({"text": WORDS}, {"files": {"file": b"dark"}}),
])  # fmt: skip
def test_a_server_of_one_input_of_any_type(inputs, request_):
    with client(asks(inputs, {"shade": SHADE}, unexplained="There is no method yet.")) as served:
        assert served.post("/predict", **request_).json()["shade"] == "dark"
        assert served.post("/explain", **request_).json()["why"] == "There is no method yet."
        assert served.get("/health").json()["takes"] == next(iter(inputs))


def test_every_error_of_one_input_is_a_sentence():
    with client(asks({"size": SIZE}, {"shade": SHADE})) as served:
        for value in ([1], "x"):
            said = served.post(
                "/predict", content=json.dumps({"size": value}), headers={"Content-Type": "application/json"}
            )
            assert said.json()["error"].endswith(".")
        said = served.post("/predict", content=b"1,2,3", headers={"Content-Type": "text/csv"}).json()["error"]
    assert said == "It has 3 numbers; expected 2: width, height."


def form(*parts, kind="multipart/form-data; boundary=b"):
    """A request with parts of (name, content); a name that ends in "file" has a filename."""
    body = b""
    for name, content in parts:
        more = '; filename="x"' if name.endswith("file") else ""
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
    return {"content": body + b"--b--\r\n", "headers": {"Content-Type": kind}}


LABELS = {"größe": SIZE, "kind": ClassLabel(["dark", "hell ☀"], entry="kind")}
GOOD = (("größe", b"1,2"), ("kind", "hell ☀".encode()))


@pytest.mark.parametrize("more", ["", "unicode_escape", "punycode", "utf-16", "idna", "none such"])
def test_the_charset_of_a_form_is_not_obeyed(more):
    kind = f'multipart/form-data; charset="{more}"; boundary=b' if more else 'multipart/form-data; boundary="b"'
    with client(asks(LABELS, {"shade": SHADE})) as served:
        assert served.post("/predict", **form(*GOOD, kind=kind)).status_code == 200
        large = (("größe", b"1,2"), ("kind", b"x" * 2_000_000))
        said = served.post("/predict", **form(*large, kind=kind))
    assert (said.status_code, said.json()["error"][:16]) == (400, "kind: xxxxxxxxxx")


@pytest.mark.parametrize(
    ("parts", "kind", "status", "said"),
    [
        ([*GOOD, GOOD[1]], "; boundary=b", 422, 'The form has 2 parts named "kind"; send one.'),
        ([GOOD[0], ("größe", b"3,4"), GOOD[1]], "; boundary=b", 422, 'The form has 2 parts named "größe"; send one.'),
        ([GOOD[0], ("kind", b"")], "; boundary=b", 400, '"kind" is empty: it has no bytes.'),
        ([GOOD[0], ("kind", b"\xff")], "; boundary=b", 400, r"kind: \xff is not a class"),
        (GOOD, "", 400, "The form cannot be read: expected multipart/form-data with a boundary."),
        (GOOD, '; boundary=""', 400, "The form cannot be read: expected multipart/form-data with a boundary."),
        (GOOD, "; boundary=b;charset=", 200, ""),
        (GOOD, f"; boundary={'b' * 71}", 400, "The form cannot be read"),
    ],
)
def test_a_wrong_form_is_refused_in_a_sentence(parts, kind, status, said):
    with client(asks(LABELS, {"shade": SHADE})) as served:
        answer = served.post("/predict", **form(*parts, kind=f"multipart/form-data{kind}"))
    assert answer.status_code == status, answer.text
    assert answer.json().get("error", "").startswith(said)


def test_two_files_of_one_input_are_refused():
    with client(asks({"text": WORDS}, {"shade": SHADE})) as served:
        said = served.post("/predict", **form(("file", b"dark"), ("file", b"light"))).json()["error"]
        assert "Too many files" in said
        said = served.post("/predict", **form(("file", b"dark"), ("text", b"light")))
        assert said.status_code == 200


@pytest.mark.parametrize("reader", ["_of_json", "_of_form"])
def test_a_body_is_read_outside_the_event_loop(reader, monkeypatch):
    loops = []
    read = getattr(Form, reader)
    monkeypatch.setattr(Form, reader, lambda *given: loops.append(asyncio._get_running_loop()) or read(*given))
    request = {"json": {"text": "dark"}} if reader == "_of_json" else form(("file", b"dark"))
    with client(asks({"text": WORDS}, {"shade": SHADE})) as served:
        assert served.post("/predict", **request).status_code == 200
    assert loops == [None]


def test_a_missing_package_is_no_error_of_the_server():
    def explain(_):
        raise UserError("error: explain: No module named captum. pip install 'lab-template[explain]'")

    with client(asks({"image": IMAGE}, {"shade": SHADE}, explain=explain)) as served:
        answer = served.post("/explain", files={"file": png(9)})
    assert (answer.status_code, answer.json()["explanation"]) == (200, None)
    assert answer.json()["why"].endswith("pip install 'lab-template[explain]'")


DATA = "data:image/png;base64,"


@dataclass(frozen=True)
class Note(Feature):
    """A text that looks like a file."""

    @property
    def entries(self):
        return ("mean",)

    def rows(self, name, sample, inputs, top_k):
        return [{name: "data:image/png,<b>"}]


PRICE = Numbers(["probability"], entry="mean")
ABOUT = {"shade": "2 classes", "mean": "level", "price": "probability", "picture": "2 × 2 pixels", "note": ""}
ABOUT |= {"image": "2 × 2 pixels", "size": "width, height", "kind": "2 classes"}


@pytest.mark.skipif(not which("node"), reason="needs node")
@pytest.mark.parametrize(
    ("inputs", "outputs", "typed", "files", "kinds", "said"),
    [
        ({"image": IMAGE}, {"shade": SHADE}, {}, ["image"], ["label"], ["dark", "80.0 %", "light", "20.0 %"]),
        ({"size": SIZE}, {"mean": MEAN}, {"size": "1,2"}, [], ["textarea"], ["level 0.2"]),
        ({"kind": SHADE}, {"picture": PICTURE}, {"kind": "dark"}, [], ["select"], [DATA]),
        (
            {"image": IMAGE, "size": SIZE},
            {"mean": MEAN, "picture": PICTURE},
            {"size": "1,2"},
            ["image"],
            ["label", "textarea"],
            ["mean", "level 0.2", "picture", DATA],
        ),
        ({"image": IMAGE, "size": SIZE}, {"mean": MEAN}, {"size": "1,2"}, [], ["label", "textarea"], None),
        ({"image": IMAGE}, {"note": Note()}, {}, ["image"], ["label"], ["data:image/png,<b>"]),
        ({"image": IMAGE}, {"price": PRICE}, {}, ["image"], ["label"], ["probability 0.2"]),
    ],
)
def test_the_page_has_a_control_for_each_input_and_shows_each_output(
    inputs, outputs, typed, files, kinds, said, tmp_path
):
    asked = asks(inputs, outputs, unexplained="No <b>.")
    bright = Predictor(inputs, outputs, lambda x: asked.predict(x | {"image": np.full((1, 1, 2, 2), 51, np.uint8)}))
    whole = {"image": base64.b64encode(png(51)).decode(), "size": [1, 2], "kind": "dark"}
    request = {"json": {name: whole[name] for name in inputs}}
    with client(replace(bright, unexplained="No <b>.")) as served:
        case = {
            "health": served.get("/health").json(),
            "predict": served.post("/predict", **request).json(),
            "explain": served.post("/explain", **request).json(),
            "typed": typed,
            "files": files,
        }
    (tmp_path / "case.json").write_text(json.dumps(case))
    command = ["node", Path(__file__).with_name("page.mjs"), PAGE, tmp_path / "case.json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert [*shown["kinds"].values()] == kinds
    about = {name: ABOUT[name] for name in (*outputs, *inputs) if ABOUT[name]}
    alone = len(outputs) == len(inputs) == 1
    assert shown["facts"] == (", " if alone else "; ").join(
        line if alone else f"{name}: {line}" for name, line in about.items()
    )
    if said is None:
        assert (shown["error"], shown["asked"]) == ("Choose a file for image.", [])
        return
    keys = [*inputs] if len(inputs) > 1 else ["file"]
    assert shown["asked"] == [["/predict", keys], ["/explain", keys]]
    assert [word if word[: len(DATA)] != DATA else DATA for word in shown["answers"]] == said
    assert shown["shown"][-1] == "No <b>."


class Net(nn.Module):
    def forward(self, image, size):
        return image.mean((1, 2, 3)) + size.sum(1)


class Both:
    """A task of two inputs and two outputs, which draws."""

    input_entries = ("image", "size", "index")
    outputs = {"shade": SHADE, "mean": MEAN}  # noqa: RUF012

    def __init__(self):
        self.net = Net()

    def eval(self):
        return self

    def predict_step(self, batch, batch_idx):
        level = self.net(batch["image"], batch["size"]) + batch["index"].float() / 100
        return {"mean": level[:, None], "shade": torch.stack([-level, level], 1).softmax(-1), "more": level}


def data_of(**features):
    image = torch.arange(40 * 4, dtype=torch.uint8).view(40, 1, 2, 2)
    batch = {"image": image, "size": torch.rand(40, 2), "label": (image.float().mean((1, 2, 3)) > 99).long()}

    class Split:
        def __len__(self):
            return 40

        def __getitems__(self, index):
            return {name: values[index] for name, values in batch.items()} | {"index": torch.tensor(index)}

    def prepared(batch):
        return batch | {"image": batch["image"].float() / 255}

    facts = SimpleNamespace(features=features)
    return SimpleNamespace(facts=facts, on_after_batch_transfer=prepared, splits={"test": Split(), "train": Split()})


def rightly(task, data):
    """The answers of a task's checkpoint."""

    def right(arrays):
        batch = data.on_after_batch_transfer({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: task.predict_step(batch, 0)[name].numpy() for name in ("shade", "mean")}

    return right


def test_an_exported_file_has_named_inputs_and_outputs(tmp_path):
    data, task = data_of(image=IMAGE, size=SIZE, label=ClassLabel(["dark", "light"])), Both()
    path = tmp_path / "model.onnx"
    exported.write_onnx(exported.program(task, data), task, data, path)
    asked = predictor.from_onnx(path)
    assert (asked.inputs, asked.outputs) == ({"image": IMAGE, "size": SIZE}, task.outputs)

    right = rightly(task, data)
    checkpoint, size = Predictor(asked.inputs, asked.outputs, right), exported.example(task, data)
    made = comparison.prove(path, "onnx", checkpoint, size, data)
    assert made["tolerance"] == {"shade": 0, "mean": 0}
    assert (made["same_answer"], made["num_samples"]) == (40, 40)
    assert made["test_shade_acc"]["exported"] == made["test_shade_acc"]["checkpoint"] == 15 / 40, "all are light"
    arrays = {name: array[:1] for name, array in size.items()} | {"index": np.array([50])}
    assert asked.predict(arrays)["mean"][0, 0] == pytest.approx(right(arrays)["mean"][0, 0])

    def other(arrays):
        return right(arrays) | {"mean": right(arrays)["mean"] + (arrays["index"][:, None] > 37)}

    with pytest.raises(RunError, match=r"of the predictions \(mean\) differ \(at most 0% may\), by up to 1"):
        comparison.prove(path, "onnx", Predictor(asked.inputs, asked.outputs, other), size, data)


def small_onnx():
    """A model that gives its input back."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["batch", 1])
    end = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1])
    node = helper.make_node("Identity", ["numbers"], ["mean"])
    return helper.make_model(
        helper.make_graph([node], "g", [value], [end]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("lab.features.numbers.Numbers", ""),
        ("nosuchfork.features.Photo", "it needs the package nosuchfork, which is not installed."),
        ("nosuchfork.Photo", "it needs the package nosuchfork, which is not installed."),
        ("json.JSONDecoder", "it is damaged or not made by lab export"),
        ("lab.features.numbers.Nothing", "it is damaged or not made by lab export"),
        ("no such/fork.Photo", "it is damaged or not made by lab export"),
        (7, "it is damaged or not made by lab export"),
    ],
)
def test_a_file_of_a_package_that_is_not_installed_says_which(target, said, tmp_path):
    import onnx

    made = small_onnx()
    feature = {"_target_": target, "names": ["x"]}
    about = {"inputs": {"numbers": feature | {"entry": "numbers"}}, "outputs": {"mean": feature | {"entry": "mean"}}}
    made.metadata_props.add(key=predictor.METADATA, value=json.dumps(about))
    onnx.save(made, tmp_path / "model.onnx")
    if not said:
        assert predictor.from_onnx(tmp_path / "model.onnx").outputs == {"mean": Numbers(["x"], entry="mean")}
        return
    with pytest.raises(UserError, match=re.escape(f"error: model={tmp_path}/model.onnx: {said}")) as error:
        predictor.from_onnx(tmp_path / "model.onnx")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "outputs", "said"),
    [
        ("onnx", {"picture": IMAGE}, "error: format=onnx: an input and the output picture have an entry named image"),
        ("onnx", {"a": MEAN, "b": MEAN}, "error: export: the outputs a and b have two entries named mean"),
        ("aoti", {"a": MEAN, "b": Note()}, "error: export: the outputs a and b have two entries named mean"),
        ("torch_export", {"picture": IMAGE, "mean": MEAN}, ""),
        ("onnx", {"picture": PICTURE, "mean": MEAN}, ""),
    ],
)
def test_entries_of_one_name_are_refused_before_a_file_is_made(kind, outputs, said):
    size = {"image": np.zeros((2, 1, 2, 2))}
    if not said:
        export.check_entries(kind, size, outputs)
        return
    with pytest.raises(UserError, match=f"^{said}[;.] "):
        export.check_entries(kind, size, outputs)


def test_an_export_of_a_task_that_draws_and_does_not_say_so_is_refused(tmp_path):
    class Secret(Both):
        input_entries = ("image", "size")

    data, task, path = data_of(image=IMAGE, size=SIZE), Secret(), tmp_path / "model.pt2"
    checkpoint = Predictor({"image": IMAGE, "size": SIZE}, task.outputs, rightly(task, data))
    exported.write_torch_export(exported.program(task, data), task, data, path)
    with pytest.raises(RunError, match="is refused: its predictions differ from those of the checkpoint"):
        comparison.prove(path, "torch_export", checkpoint, exported.example(task, data), data)
