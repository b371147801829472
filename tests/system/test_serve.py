"""A real server and a real client: right answers, clear errors, an end without a trace."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from conftest import LAB
from PIL import Image
from refusals import one_line

from lab.engine.config.compose import compose_config
from lab.engine.errors import UserError
from lab.features.read_image import read_image
from lab.verbs.predict import main as predict
from lab.verbs.serve import main as serve
from lab.verbs.serve.server import PAGE


@pytest.fixture(scope="module")
def folder(digits_run):
    return digits_run


@contextmanager
def server(*arguments, end=signal.SIGTERM):
    """Its client, and afterwards an exit that is in order."""
    command = [LAB, "serve", "port=0", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url, process.stderr.read()
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=url[0], timeout=60, limits=limits, trust_env=False) as client:
            client.process = process
            yield client
            process.send_signal(end)
            assert process.wait(30) == {signal.SIGTERM: 0, signal.SIGINT: 130}[end]
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def client(folder):
    with server(f"model={folder}/model.onnx", "max_body_mb=1", "max_megapixels=2", "timeout_s=3") as client:
        yield client


def picture(seed=0, size=(20, 30), kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def expected(folder, pictures, tmp_path, *overrides):
    """The rows that `lab predict` writes for the pictures."""
    for i, content in enumerate(pictures):
        (tmp_path / f"{i:03d}.png").write_bytes(content)
    output = tmp_path / "out.jsonl"
    asked = [f"run={folder}", f"input={tmp_path}/*.png", f"output={output}", *overrides]
    predict.main(compose_config("predict", asked))
    return [json.loads(line) for line in output.read_text().splitlines()]


def same(answer, row):
    tops = [(row[f"class{n}"], row[f"probability{n}"]) for n in ("", "_2", "_3")]
    assert (answer["class"], answer["probability"]) == (answer["top"][0]["class"], answer["top"][0]["probability"])
    assert [best["class"] for best in answer["top"]] == [name for name, _ in tops]
    assert [best["probability"] for best in answer["top"]] == pytest.approx([p for _, p in tops], abs=1.01e-4)


def test_answers_are_those_of_predict_however_it_is_asked(folder, tmp_path, client):
    pictures = [picture(i, kind=kind) for i, kind in enumerate(("PNG", "JPEG", "GIF"))]
    for content, row in zip(pictures, expected(folder, pictures, tmp_path), strict=True):
        forms = (
            {"files": {"file": ("x.png", content, "image/png")}},
            {"files": {"file": ("x", content)}},
            {"content": content, "headers": {"Content-Type": "image/png"}},
            {"json": {"image": base64.b64encode(content).decode()}},
        )
        for form in forms:
            response = client.post("/predict", **form)
            assert response.status_code == 200, response.text
            same(response.json(), row)


def test_many_at_once_are_answered_and_none_is_mixed_up(folder, tmp_path, client):
    pictures = [picture(i) for i in range(200)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda content: client.post("/predict", files={"file": content}), pictures))
    assert [answer.status_code for answer in answers] == [200] * 200
    rows = expected(folder, pictures, tmp_path)
    assert len({row["probability"] for row in rows}) > 20, "a mix-up would not be seen"
    for answer, row in zip(answers, rows, strict=True):
        same(answer.json(), row)


def test_health(client, folder):
    answer = client.get("/health").json()
    assert answer["status"] == "ok"
    assert answer["model"] == f"{folder}/model.onnx"
    assert answer["classes"] == list(map(str, range(10)))
    assert (answer["image_size"], answer["num_channels"]) == (32, 1)


def image(content):
    return {"content": content, "headers": {"Content-Type": "image/png"}}


def text(content, kind="application/json"):
    return {"content": content, "headers": {"Content-Type": kind}}


def drip():
    yield b"x"
    time.sleep(5)


BAD = {
    "no body": (415, "missing", {}),
    "no image type": (415, "text/plain", text("hello", "text/plain")),
    "an empty body": (400, "empty", image(b"")),
    "an empty file": (400, "no bytes", {"files": {"file": b""}}),
    "no image": (400, "not an image", image(b"hello")),
    "half an image": (400, "can't be read", image(picture()[:900])),
    "a program for a picture": (400, "not an image", image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")),
    "no image in the form": (400, "not an image", {"files": {"file": b"hello"}}),
    "another field": (422, 'named "file"', {"files": {"image": picture()}}),
    "a field that is no file": (422, 'named "file"', {"files": {"file": (None, "hello")}}),
    "two files": (400, "Too many files", {"files": [("file", picture()), ("file", picture())]}),
    "a form without boundary": (400, "form", text("hello", "multipart/form-data")),
    "a form that is cut short": (422, "form", text("--b\r\nContent-Di", "multipart/form-data; boundary=b")),
    "no form": (400, "form", text("hello", "multipart/form-data; boundary=b")),
    "no JSON": (400, "not JSON", text("{")),
    "JSON that is no text": (400, "not JSON", text(b"\xff\xfe\xfd")),
    "JSON without end": (400, "not JSON", text("[" * 100_000)),
    "JSON of a number": (422, '"image"', text("7")),
    "JSON without image": (422, '"image"', {"json": {"picture": "x"}}),
    "JSON with a list": (422, '"image"', {"json": {"image": [1, 2]}}),
    "an empty text": (400, "no bytes", {"json": {"image": ""}}),
    "no base64": (422, "base64", {"json": {"image": "¡hola!"}}),
    "base64 of no image": (400, "not an image", {"json": {"image": "aGVsbG8="}}),
    "a long body": (413, "1 MB", image(bytes(1_000_001))),
    "a long body of unknown length": (413, "1 MB", image(iter([bytes(500_000)] * 3))),
    "a very long body": (413, "1 MB", image(bytes(50_000_000))),
    "a body that does not come": (408, "within 3 s", image(drip())),
    "another host": (421, "localhost", {"headers": {"Host": "evil.example:80"}}),
    "a host that begins well": (421, "localhost", {"headers": {"Host": "localhost.evil.example"}}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_answered_with_a_sentence_and_the_server_goes_on(name, client):
    status, said, request = BAD[name]
    begin = time.monotonic()
    response = client.post("/predict", **request)
    assert time.monotonic() - begin < 3 + 5 * (status == 408), "an error is not a matter of time"
    refused(response, status, said)
    assert client.post("/predict", **image(picture())).status_code == 200


def refused(response, status, said):
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]
    assert response.json()["error"].endswith(".")
    assert " at 0x" not in response.text, "an object's address is nobody's business"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/nowhere", 404), ("GET", "/docs", 404), ("GET", "/../etc/passwd", 404), ("POST", "/predict/", 404)),
        *(("GET", "/predict", 405), ("DELETE", "/health", 405), ("POST", "/", 405)),
    ],
)
def test_another_path_or_method(method, path, status, client):
    refused(client.request(method, path), status, "path")


@pytest.mark.parametrize(("side", "said"), [(1500, "2 megapixels"), (12000, "2 megapixels")])
def test_a_decompression_bomb_is_refused_by_its_header(side, said, client):
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    refused(client.post("/predict", **image(file.getvalue())), 413, said)
    cut = file.getvalue()[:100]  # nothing to decode: what is said of it is said of its header
    refused(client.post("/predict", **image(cut)), 413, said)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000", "[::1]"])
def test_names_of_this_machine_are_answered(host, client):
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_a_client_that_leaves_does_no_harm(client):
    host, port = client.base_url.host, client.base_url.port
    for sent in (b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"):
        for rest in (b"", b"Content-Length: 1000\r\n\r\nabc"):
            with socket.create_connection((host, port)) as connection:
                connection.sendall(sent + rest)
    assert client.post("/predict", **image(picture())).status_code == 200


def test_no_other_site_may_read_the_answers(client):
    response = client.options("/predict", headers={"Origin": "http://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_page_loads_nothing_from_elsewhere(client):
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.text == PAGE.read_text()
    assert not re.findall(r"""(?:https?:)?//[\w.]+|@import|<(?:script|img)[^>]+src=|url\(""", response.text)


def test_a_run_explains_itself_and_an_export_says_why_not(folder, tmp_path, client):
    content = picture()
    answer = client.post("/explain", **image(content)).json()
    assert answer["explanation"] is None
    assert "run=FOLDER" in answer["why"]
    with server(f"run={folder}", "trainer=cpu", end=signal.SIGINT) as of_run:
        (row,) = expected(folder, [content], tmp_path)
        same(of_run.post("/predict", **image(content)).json(), row)
        explained = of_run.post("/explain", **image(content)).json()
    assert explained.get("class") == row["class"], explained
    assert explained["image"] == answer["image"]
    shown, overlay = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', explained[key])[1]))))
        for key in ("image", "explanation")
    )
    assert (shown == read_image(io.BytesIO(content), 1, 32)[0]).all()
    assert overlay.shape == (32, 32, 3)
    assert len(np.unique(overlay.reshape(-1, 3), axis=0)) > 50, "not one colour"


def test_what_is_asked_is_answered_before_the_end(folder, tmp_path):
    """A body that is half here when the server is told to stop."""
    content = picture()
    with server(f"model={folder}/model.onnx") as client:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
            connection.sendall(head.encode() + b"Content-Type: image/png\r\n\r\n" + content[:100])
            time.sleep(0.5)
            client.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            connection.sendall(content[100:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer
        assert client.process.wait(20) == 0


def test_no_torch_is_imported_for_an_exported_model(folder):
    code = f"""
import signal, sys, threading
from lab.engine import cli
from lab.verbs.serve import main as serve
serve_run = serve.run
def run(*arguments):
    threading.Timer(1, signal.raise_signal, [signal.SIGTERM]).start()
    try:
        serve_run(*arguments)
    finally:
        heavy = {{"torch", "lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib"}} & set(sys.modules)
        print(heavy or "nothing heavy")
serve.run = run
sys.argv = ["lab", "serve", "model={folder}/model.onnx", "port=0"]
cli.main()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith("nothing heavy\n"), result
    assert result.returncode == 0, result.stderr


WRONG = {
    "port=70000": "error: port=70000: should be less than or equal to 65535",
    "port=80.5": "error: port=80.5: should be a valid integer",
    "max_batch=0": "error: max_batch=0: should be greater than or equal to 1",
    "timeout_s=never": "error: timeout_s=never: should be a valid number",
    "max_megapixels=1000": "error: max_megapixels=1000: should be less than or equal to 89",
    "top_k=true": "error: top_k=True: should be a valid integer",
    "trainer=cpu": "error: trainer: an exported model runs on the CPU; remove trainer=",
    "host=nowhere.invalid": "error: host=nowhere.invalid port=8000: cannot listen there",
    "prot=1": "error: prot=1: unknown key prot. Did you mean port?",
}


@pytest.mark.parametrize("argument", WRONG)
def test_a_mistake_is_said_in_a_line(argument, lab, folder):
    result = lab("serve", f"model={folder}/model.onnx", argument)
    assert result.returncode == 2
    assert result.stderr.startswith(WRONG[argument])
    assert one_line(result.stderr), result.stderr


def test_what_is_served_is_said_once(lab, folder):
    for arguments in ([], [f"run={folder}", f"model={folder}/model.onnx"]):
        result = lab("serve", *arguments)
        assert result.stderr == "error: run, model: expected one of them, run=FOLDER or model=FILE.onnx\n"
        assert result.returncode == 2


def test_a_port_that_is_taken(lab, client):
    result = lab("serve", f"model={os.devnull}.onnx", f"port={client.base_url.port}")
    assert result.returncode == 2
    assert "cannot listen there: Address already in use. Choose another." in result.stderr
    assert one_line(result.stderr), result.stderr


def test_elsewhere_than_on_loopback_it_says_what_that_means_and_any_name_is_answered(folder):
    with server(f"model={folder}/model.onnx", "host=0.0.0.0") as client:
        assert "no login and no TLS" in client.process.stdout.readline()
        assert client.get("/health", headers={"Host": "lab.example"}).status_code == 200


def test_an_extra_that_is_missing(monkeypatch, folder):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'lab-template[serve]'")) as said:
        serve.main(compose_config("serve", [f"model={folder}/model.onnx"]))
    assert "\n" not in str(said.value)
