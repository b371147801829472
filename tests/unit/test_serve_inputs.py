"""The server and its page with several inputs and outputs, and forms."""

import asyncio
import base64
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import PIL.Image
import pytest
from made_up_outputs import IMAGE, MEAN, PICTURE, SHADE, SIZE, TWO, WORDS, Note, asks, client, png

from lab.engine.errors import UserError
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.verbs.predictor import Predictor
from lab.verbs.serve.form import Form
from lab.verbs.serve.server import PAGE


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
