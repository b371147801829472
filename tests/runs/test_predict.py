"""Predictions for your files: by a run and by the file exported from it, the same."""

import base64
import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LAB
from PIL import Image
from sklearn.datasets import load_digits
from tables import read_rows

from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.features.image import Image as Picture
from lab.features.labels import ClassLabel
from lab.verbs import predictor
from lab.verbs.predict import main as predict
from lab.verbs.predict.predictions import Prediction
from lab.verbs.predictor import Predictor


@pytest.fixture(scope="module")
def folder(digits_run):
    return digits_run


@pytest.fixture
def digits(tmp_path):
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    for i, (image, label) in enumerate(zip(load_digits().images[:20], load_digits().target[:20], strict=True)):
        picture = Image.fromarray((image * 15).astype("uint8")).convert("RGB" if i % 2 else "L")
        picture.resize((40, 40)).save(folder / ("deep" if i > 9 else "") / f"{i:02d}_{label}.png")
    return folder


def classifier(answer, names):
    """One of 4 × 4 images, whose answers are those of a function of arrays."""
    outputs = {"class": ClassLabel(names, entry="class")}
    return Predictor({"image": Picture(1, 4)}, outputs, lambda arrays: {"class": answer(arrays["image"])})


@pytest.fixture
def ask(tmp_path):
    def ask(*overrides, output="out.csv"):
        predict.main(compose_config("predict", [*overrides, f"output={tmp_path}/{output}"]))
        return read_rows(tmp_path / output) if output == "out.csv" else None

    return ask


def of(kind, folder):
    return f"run={folder}" if kind == "run" else f"model={folder}/model.onnx"


@pytest.mark.parametrize("kind", ["run", "model"])
def test_files_are_classified(kind, folder, digits, ask, capsys):
    rows = ask(of(kind, folder), f"input={digits}")
    assert len(rows) == 20
    right = sum(row["path"].endswith(f"_{row['class']}.png") for row in rows)
    assert right >= 18, f"{right} of 20 images that it was trained on"
    for row in rows:
        best = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert best == sorted(best, reverse=True)
        assert 0.1 < best[0] <= sum(best) <= 1.0002
        assert len({row["class"], row["class_2"], row["class_3"]}) == 3
        assert row["error"] == ""
    assert "20 predictions" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["top_k=10"], ["flip=true"], ["top_k=1", "flip=true"]])
def test_a_run_and_its_export_write_the_same(more, folder, digits, ask, tmp_path):
    (digits / "broken.png").write_text("no image")
    written = []
    for kind in ("run", "model"):
        with pytest.raises(RunError, match="1 of 21 items could not be read"):
            ask(of(kind, folder), f"input={digits}", *more)
        written.append((tmp_path / "out.csv").read_bytes())
    assert written[0] == written[1]


def test_no_torch_is_imported_for_an_exported_model(folder, digits, tmp_path):
    code = f"""
import sys
from lab.engine import cli
sys.argv = ["lab", "predict", "model={folder}/model.onnx", "input={digits}"]
cli.main()
heavy = {{"torch", "lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 21


def test_a_mirror_image_is_asked_too():
    """A model that answers with the brightness of the left half."""

    def left(image):
        share = image[..., : image.shape[-1] // 2].mean((1, 2, 3)) / 255
        return np.stack([share, 1 - share], 1)

    image = np.zeros((2, 1, 4, 4), np.uint8)
    image[0, ..., :2] = 255
    both = predictor.with_flip(classifier(left, ["left", "right"])).predict({"image": image})
    assert both["class"].tolist() == [[0.5, 0.5], [0, 1]]


def test_what_can_not_be_read_is_said_and_the_others_are_answered(lab, folder, digits, tmp_path):
    (digits / "a.png").write_text("no image")
    (digits / "b.png").write_bytes(b"")
    Image.new("1", (12000, 9000)).save(digits / "bomb.png")  # 108 million pixels, in 13 kB
    (digits / "z.png").write_bytes((digits / "00_0.png").read_bytes()[:80])
    result = lab("predict", f"model={folder}/model.onnx", f"input={digits}")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: input: 4 of 24 items could not be read; see the column error in predictions.csv."
    ]
    rows = {os.path.basename(row["path"]): row for row in read_rows(tmp_path / "predictions.csv")}
    assert {name for name, row in rows.items() if row["error"]} == {"a.png", "b.png", "bomb.png", "z.png"}
    assert "decompression bomb" in rows["bomb.png"]["error"]
    assert all(bool(row["class"]) == (not row["error"]) for row in rows.values())
    assert rows["19_9.png"]["class"], "what follows a broken file is answered"
    assert "a.png" in result.stdout


def test_every_way_to_name_files(folder, digits, ask, monkeypatch):
    def paths(text):
        return [os.path.relpath(row["path"], digits) for row in ask(of("model", folder), f"input={text}")]

    assert paths(f"{digits}/00_0.png") == ["00_0.png"]
    assert paths(f"{digits}/0?_*.png") == [f"0{i}_{i}.png" for i in range(10)]
    assert len(paths(f"{digits}/**/*.png")) == 20
    (digits / "[1].png").write_bytes((digits / "00_0.png").read_bytes())
    assert paths(f"'{digits}/[1].png'") == ["[1].png"], "a file comes before a glob"
    (digits / "notes.txt").write_text("no image, and not asked for")
    assert len(paths(digits)) == 21
    listed = f"{digits}/03_3.png\n\n{digits}/01_1.png\n".encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(listed), isatty=lambda: False))
    assert paths("-") == ["03_3.png", "01_1.png"], "in the order of the list"


def test_a_list_may_name_what_is_not_there_and_what_is_no_text(folder, digits, lab, tmp_path):
    odd = os.fsencode(digits) + b"/\xff\xfe.png"
    try:
        with open(odd, "wb") as file:
            file.write((digits / "00_0.png").read_bytes())
    except OSError:
        pytest.skip("this file system has text for names")
    command = [os.path.join(os.path.dirname(sys.executable), "lab"), "predict", of("model", folder), "input=-"]
    result = subprocess.run(command, input=odd + b"\nnowhere.png\n", cwd=tmp_path, capture_output=True)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1, result.stderr
    lines = (tmp_path / "predictions.csv").read_bytes().splitlines()
    assert lines[1].startswith(odd + b",")
    assert b"No such file" in lines[2]


def test_json_lines(folder, digits, ask, tmp_path):
    (digits / "broken.png").write_text("no image")
    with pytest.raises(RunError):
        ask(of("model", folder), f"input={digits}", output="out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 21
    assert rows[0]["class"] == "0"
    assert 0 < rows[0]["probability"] <= 1
    broken = next(row for row in rows if row["error"])
    assert broken["class"] is None
    assert broken["probability_3"] is None


def test_parquet_is_written_or_what_it_takes_is_said(folder, digits, ask, tmp_path):
    if not find_spec("pyarrow"):
        with pytest.raises(UserError, match="this needs pyarrow: pip install pyarrow"):
            ask(of("model", folder), f"input={digits}", output="out.parquet")
        return
    import pyarrow.parquet

    ask(of("model", folder), f"input={digits}", output="out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if k == "class"} for row in table] == [
        {"class": row["class"]} for row in ask(of("model", folder), f"input={digits}")
    ]


def test_an_onnx_file_of_somebody_else_is_refused(folder, digits, ask, tmp_path):
    import onnx

    other = onnx.load(folder / "model.onnx")
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=r"other.onnx: it is damaged or not made by lab export"):
        ask(f"model={tmp_path}/other.onnx", f"input={digits}")
    (tmp_path / "cut.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut.onnx: it is damaged"):
        ask(f"model={tmp_path}/cut.onnx", f"input={digits}")


def test_an_empty_folder_and_an_empty_list(folder, tmp_path, ask, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder has no images"):
        ask(of("model", folder), f"input={tmp_path}/empty")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n"), isatty=lambda: False))
    with pytest.raises(UserError, match="expected paths on standard input"):
        ask(of("model", folder), "input=-")


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "-x", "\tx", "\x1b[2Jx", "a\nb", "\u202ex"])
def test_a_name_is_no_formula_in_a_table_and_no_command_to_a_terminal(name, tmp_path, capsys):
    output = str(tmp_path / "out.csv")
    row = {"path": f"{name}.png", "class": name, "probability": 0.5, "error": ""}
    answer = Prediction(f"{name}.png", [row], name, f"0.5000  {name}")
    with predict.writing(output) as write:
        write([answer])
    predict.show([answer], 1, 0, output)
    with predict.writing("-") as write:
        write([answer])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 4
    assert not {"\x1b", "\u202e", "\t"} & set(shown)
    with open(output, newline="", encoding="utf-8") as file:
        (read,) = csv.DictReader(file)
    quote = "'" if name[0] in "=@-\t" else ""
    assert read == {"path": f"{quote}{name}.png", "class": quote + name, "probability": "0.5000", "error": ""}


@pytest.mark.parametrize(
    "content", [b"a.png\r\nb c.png\r\n", b"\xef\xbb\xbfa.png\nb c.png", b"\r\na.png\r\n\r\nb c.png\r\n"]
)
def test_a_list_of_another_system(content, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert Picture(1, 4).find("-") == ["a.png", "b c.png"]


def test_a_list_in_utf_16_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("a.png".encode("utf-16"))))
    with pytest.raises(UserError, match="input=-: it is UTF-16"):
        Picture(1, 4).find("-")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f" DATA:;base64,{text}\n",
        lambda text: "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
    ],
)
def test_base64_in_its_forms(wrap):
    content = bytes(range(256)) + b"x"
    assert Picture(1, 4).from_json(wrap(base64.b64encode(content).decode())) == content


def failing(error):
    yield "a.png"
    raise error


class Closed:
    """A pipe whose reader has ended."""

    def write(self, _):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self):
        self.write("")


EIO = OSError(errno.EIO, "Input/output error")


def raises(error):
    raise error


def closes(reader, images):
    """A model that, asked for two images, ends the reader of its answers: the example was the first two."""
    if not images.any():
        os.close(reader)
    return np.tile(np.float32([0.75, 0.25]), (len(images), 1))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A model that needs no file."""

    def fake(find=lambda *_: ["a.png", "b.png"], answer=lambda x: np.tile(np.float32([0.75, 0.25]), (len(x), 1))):
        monkeypatch.setattr(predictor, "from_onnx", lambda _: classifier(answer, ["a", "b"]))
        monkeypatch.setattr(Picture, "find", find)
        black = {"image": np.zeros((1, 4, 4), np.uint8)}
        monkeypatch.setattr(Picture, "read", lambda _, items: ([black] * len(items), [""] * len(items)))
        monkeypatch.chdir(tmp_path)

    def ask(*overrides):
        predict.main(compose_config("predict", ["model=x.onnx", *overrides]))

    return SimpleNamespace(build=fake, ask=ask)


@pytest.mark.parametrize("output", ["-", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("source", ["images", "-"])
@pytest.mark.parametrize("find", [lambda *_: raises(EIO), lambda *_: failing(EIO)])
def test_an_input_that_fails_is_not_blamed_on_the_output(find, source, output, fake):
    fake.build(find)
    with pytest.raises(RunError, match=f"^error: input={source}: it could not be read: Input/output error.$"):
        fake.ask(f"input={source}", f"output={output}")


@pytest.mark.parametrize("output", ["full.csv", "full.jsonl", "full.parquet", "folder.csv"])
def test_an_output_that_fails_is_named(output, fake, tmp_path):
    if output == "full.parquet":
        pytest.importorskip("pyarrow")
    fake.build()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / output).exists() or (tmp_path / output).symlink_to("/dev/full")
    with pytest.raises(RunError, match=f"^error: output={output}: it could not be written: [A-Z]"):
        fake.ask("input=images", f"output={output}")


def test_a_model_that_fails_blames_neither(fake):
    fake.build(answer=lambda _: raises(EIO))
    with pytest.raises(OSError, match="Input/output error"):
        fake.ask("input=images", "output=out.csv")


@pytest.mark.parametrize("output", ["-", "pipe.csv", "pipe.jsonl"])
def test_a_closed_pipe_is_no_error(output, fake, tmp_path, monkeypatch):
    fake.build()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python starts; `lab runs` of another test ends by it
    if output == "-":
        monkeypatch.setattr(sys, "stdout", Closed())
    else:
        os.mkfifo(tmp_path / output)
        reader = os.open(tmp_path / output, os.O_RDONLY | os.O_NONBLOCK)
        fake.build(answer=lambda x: closes(reader, x))
    with pytest.raises(BrokenPipeError):
        fake.ask("input=images", f"output={output}")


def test_the_reader_of_the_answers_may_end_first(folder, digits):
    paths = "\n".join(map(str, sorted(digits.rglob("*.png")) * 20))
    command = [LAB, "predict", f"model={folder}/model.onnx", "input=-", "output=-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        _, error = process.communicate(paths.encode(), timeout=60)
    assert (process.returncode, error) == (1, b"")
