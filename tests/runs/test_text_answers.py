"""A run that classifies texts answers like one that classifies images: predict, export, explain and serve."""

import csv
import functools
import io
import json
import re
import signal
import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch
from conftest import LAB
from fastapi.testclient import TestClient
from tables import read_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lab import train
from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.features import tokens
from lab.features.base import pack, unpack
from lab.features.text import Text
from lab.features.tokens import END, UNKNOWN
from lab.nets.recurrent import Recurrent
from lab.verbs import predictor
from lab.verbs.explain import main as explain
from lab.verbs.explain import texts
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict
from lab.verbs.serve.server import build

TEXTS = ["dog face", "Hundegesicht", "", "😀", "مرحبا <b>|</b>", "x" * 100_000, "grinning face"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that tells languages apart, with its model.onnx, not to be changed."""
    place = tmp_path_factory.mktemp("run")
    quick = (
        "trainer=cpu",
        "trainer.max_epochs=12",
        "optimizer.lr=0.03",
        "trainer.enable_progress_bar=false",
        f"run={place}",
    )
    small = ("data.tiny=true", "data.max_length=24", "net=gru", "net.embedding_dim=8", "net.hidden=8")
    train.main(compose_config("train", ["experiment=language_id", *small, *quick]))
    export.main(compose_config("export", [f"run={place}"]))
    return place


def asked(tmp_path, *overrides, output="out.csv"):
    predict.main(compose_config("predict", [*overrides, f"output={tmp_path}/{output}"]))
    return read_rows(tmp_path / output)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\n".join([*TEXTS[:3], "no text", *TEXTS[3:]]).encode().replace(b"no text", b"\xff\xfe") + b"\n")
    return path


def answers_alone(folder):
    """The exported file, and its answer for each text in a batch of its own."""
    asked = predictor.from_onnx(folder / "model.onnx")
    samples, _ = asked.inputs["text"].read(TEXTS)
    return asked, [asked.answers([sample], [0])[0] for sample in samples]


def class_names(folder):
    return predictor.from_onnx(folder / "model.onnx").outputs["class"].class_names


def test_every_line_of_a_file_is_answered_by_a_run_and_its_export_alike(folder, lines, tmp_path):
    tables = []
    for which in (f"run={folder}", f"model={folder}/model.onnx"):
        with pytest.raises(RunError, match="1 of 8 items could not be read"):
            asked(tmp_path, which, f"input={lines}")
        tables.append((tmp_path / "out.csv").read_bytes())
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(io.StringIO(tables[0].decode(errors="surrogateescape"))))
    assert [row["text"] for row in rows if not row["error"]] == TEXTS
    assert [row["error"] for row in rows if row["error"]] == ["it is not UTF-8"]
    alone, answers = answers_alone(folder)
    said = [alone.rows(answer, {}, 1)["class"][0]["class"] for answer in answers]
    assert [row["class"] for row in rows if not row["error"]] == said
    assert len(set(said)) > 1, "a mix-up would not be seen"


def test_a_text_is_answered_alike_alone_and_among_others(folder, lines, tmp_path):
    asked, alone = answers_alone(folder)
    samples, _ = asked.inputs["text"].read(TEXTS)
    together = asked.answers(samples, range(len(samples)))
    assert np.stack([answer["class"] for answer in alone]) == pytest.approx(
        np.stack([answer["class"] for answer in together]), abs=1e-6
    )


def test_standard_input_is_a_stream_and_so_is_standard_output(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "texts").write_text("cat\n\nHund\n")
    with open(tmp_path / "texts") as file:
        monkeypatch.setattr(sys, "stdin", file)
        predict.main(compose_config("predict", [f"model={folder}/model.onnx", "input=-", "output=-"]))
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 3
    assert set(answers) <= set(class_names(folder))


def test_a_folder_a_missing_file_and_a_mirror_are_refused(folder, tmp_path):
    of_model = f"model={folder}/model.onnx"
    with pytest.raises(UserError, match="it is a folder; give a file with a text on each line"):
        asked(tmp_path, of_model, f"input={tmp_path}")
    with pytest.raises(UserError, match="there is no such file"):
        asked(tmp_path, of_model, "input=nowhere.txt")
    with pytest.raises(UserError, match="text inputs cannot be mirrored"):
        asked(tmp_path, of_model, f"input={tmp_path}", "flip=true")
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="empty: it is empty; a text on each line"):
        asked(tmp_path, of_model, f"input={tmp_path}/empty")
    mine = tmp_path / "mine.csv"
    mine.write_text("dog\n")
    with pytest.raises(UserError, match=r"mine.csv: this is the input, which would be lost"):
        asked(tmp_path, of_model, f"input={mine}", output="mine.csv")
    assert mine.read_text() == "dog\n"


def test_a_table_like_that_of_the_training_is_read_by_its_column(folder, tmp_path):
    of_model = f"model={folder}/model.onnx"
    (tmp_path / "lines.txt").write_text("cat\nHund\n")
    (tmp_path / "table.csv").write_text('label,text\nenglish,cat\ngerman,"Hund"\n')
    (tmp_path / "table.jsonl").write_text('{"text": "cat"}\n{"text": "Hund", "label": "german"}\n')
    written = []
    for name in ("lines.txt", "table.csv", "table.jsonl"):
        asked(tmp_path, of_model, f"input={tmp_path}/{name}")
        written.append((tmp_path / "out.csv").read_text())
    assert written[0] == written[1] == written[2]
    (tmp_path / "other.csv").write_text("sentence\ncat\n")
    with pytest.raises(UserError, match="other.csv: .*column text"):
        asked(tmp_path, of_model, f"input={tmp_path}/other.csv")


def test_a_line_is_answered_before_the_next_one_comes(folder):
    command = [LAB, "predict", f"model={folder}/model.onnx", "input=-", "output=-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, preexec_fn=listen, **pipes) as process:
        for text in ("dog face", "", "Hund"):
            process.stdin.write(f"{text}\n")
            assert process.stdout.readline().strip() in class_names(folder)
        process.send_signal(2)
        assert process.wait(30) == 130


def test_a_mark_at_the_beginning_of_a_file_is_no_letter(folder, tmp_path):
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfdog\n")
    (row,) = asked(tmp_path, f"model={folder}/model.onnx", f"input={tmp_path}/marked")
    assert row["text"] == "dog"


def test_a_damaged_tokenizer_is_said_in_a_line(folder, tmp_path):
    import onnx

    made = onnx.load(folder / "model.onnx")
    (entry,) = (entry for entry in made.metadata_props if entry.key == predictor.METADATA)
    about = json.loads(entry.value)
    for change in ({"tokenizer": "{}"}, {"max_length": "x"}):
        entry.value = json.dumps(about | {"inputs": {"text": about["inputs"]["text"] | change}})
        onnx.save(made, tmp_path / "other.onnx")
        with pytest.raises(UserError, match=r"other.onnx: it is damaged"):
            predictor.from_onnx(tmp_path / "other.onnx")


def test_the_export_is_proven_on_texts_of_every_length(folder):
    report = json.loads((folder / "export.json").read_text())["model.onnx"]
    assert report["same_answer"] == report["num_samples"]
    assert max(report["max_difference"].values()) <= 1e-4


def test_inputs_travel_as_plain_values_and_what_is_no_feature_is_refused(folder):
    inputs = predictor.from_onnx(folder / "model.onnx").inputs
    assert unpack(json.loads(json.dumps(pack(inputs)))) == inputs
    for target in ("lab.features.sounds.Sound", "lab.features.base.Feature", "lab.data.tiny.image_folder", "os.system"):
        with pytest.raises(ValueError, match="features.text: "):
            unpack({"text": pack(inputs)["text"] | {"_target_": target}})


class Sum(nn.Module):
    """Logits that are sums of what each token says: its attribution is its own less an unknown token's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)

    def forward(self, token):
        return (self.embedding(token) * (token != 0)[..., None]).sum(1)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_attributions_of_a_sum_are_its_parts(method):
    torch.manual_seed(0)
    method = texts.TextExplainer(Text(tokens.train_tokenizer(["a b <"], "characters", 9, 1, 9), 9)).methods()[method]
    net = Sum()
    token = torch.tensor([[4, 5, UNKNOWN, END, 0]])
    weight = net.embedding.weight.detach()
    expected = torch.stack([weight[4, 2] - weight[UNKNOWN, 2], weight[5, 2] - weight[UNKNOWN, 2], *torch.zeros(3)])
    found = method(net, token, torch.tensor([2]))
    assert found.shape == token.shape
    assert found[0, :3].tolist() == pytest.approx(expected[:3].tolist(), abs=1e-5)


def test_what_linear_logits_of_n_grams_say_is_attributed_too():
    torch.manual_seed(0)
    net = Recurrent(3, 9, "gru", embedding_dim=4, hidden=4, linear_ngrams=2, ngram_buckets=50).eval()
    nn.init.normal_(net.linear.embedding.weight)
    nn.init.normal_(net.head.weight)
    token = torch.tensor([[4, 5, 4, END, 0]])
    blank = torch.tensor([[UNKNOWN, UNKNOWN, UNKNOWN, END, 0]])
    method = texts.TextExplainer(Text(tokens.train_tokenizer(["a b <"], "characters", 9, 1, 9), 9)).methods()[
        "integrated_gradients"
    ]
    change = (net(token) - net(blank))[0, 2].item()
    assert method(net, token, torch.tensor([2])).sum().item() == pytest.approx(change, rel=0.05)
    assert abs(change - (net.linear(token) - net.linear(blank))[0, 2].item()) > 0.1 * abs(change), "all of it is linear"


def test_a_text_is_no_html():
    feature = Text(tokens.train_tokenizer(["<b>&"], "characters", 20, 1, 9), 9)
    (sample,), _ = feature.read(["<b>"])
    assert feature.html(sample) == "&lt;b&gt;"
    shown = texts.TextExplainer(feature).html(sample["token"], torch.tensor([1.0, -0.5, 0.0, 0.0]))
    assert re.findall(r">([^<]*)<", shown) == ["&lt;", "", "b", "", "&gt;", "", "⏎"]
    assert re.findall(r"<(\w+)", shown) == ["span"] * 4


def test_explanations_are_pages_of_coloured_text(folder, lines, tmp_path, capsys):
    good = tmp_path / "good.txt"
    good.write_text("\n".join(TEXTS))
    explain.main(compose_config("explain", [f"run={folder}", "trainer=cpu", f"input={good}"]))
    page = (folder / "explain/inputs.html").read_text()
    assert page.count("<h2>") == len(TEXTS)
    assert "rgba(178, 24, 43" in page
    assert "left out" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^error: methods=gradcam: unknown method gradcam\. .*integrated_gradients"):
        explain.main(compose_config("explain", [f"run={folder}", "trainer=cpu", "methods=[occlusion,gradcam]"]))
    assert EventAccumulator(str(folder)).Reload().Images("explain/inputs")
    explain.main(compose_config("explain", [f"run={folder}", "trainer=cpu", "num_mistakes=3"]))
    report = json.loads((folder / "explain/report.json").read_text())
    assert {"integrated_gradients", "occlusion", "random"} == set(report["methods"])
    assert [group["picture"] for group in report["samples"]] == ["mistakes.html", "right.html"]
    with pytest.raises(UserError, match="it is not UTF-8"):
        explain.main(compose_config("explain", [f"run={folder}", "trainer=cpu", f"input={lines}"]))


def test_galleries_are_tables_of_texts(folder):
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"train_samples.md", "test_mistakes.md", "test_confusion.png"} <= names
    rows = (folder / "figures/test_mistakes.md").read_text().splitlines()
    assert rows[2:4] == ["| text |  |", "| --- | --- |"]
    assert all(" → " in row for row in rows[4:])


def test_a_server_takes_texts(folder):
    of_run = predictor.from_run(str(folder), compose_config("predict", ["trainer=cpu", "input=-"]).trainer)
    app = build(compose_config("serve", [f"run={folder}"]), of_run, "a run", {"testserver"})
    with TestClient(app) as client:
        assert client.get("/health").json()["takes"] == "text"
        by_json = client.post("/predict", json={"text": "dog face"}).json()
        plain = {"content": b"dog face", "headers": {"Content-Type": "text/plain; charset=utf-8"}}
        assert client.post("/predict", **plain).json() == by_json
        assert client.post("/predict", json={"text": "x" * 100_000}).status_code == 200
        explained = client.post("/explain", json={"text": "dog <b>"}).json()
        assert explained["text"].startswith("dog &lt;unk&gt;"), "which are in no name"
        assert explained["explanation"].startswith("<span")
        bad = {
            415: {"content": b"x", "headers": {"Content-Type": "image/png"}},
            422: {"json": {"image": "x"}},
            400: {"content": b"\xff\xfe", "headers": {"Content-Type": "text/plain"}},
        }
        for code, request in bad.items():
            response: httpx.Response = client.post("/predict", **request)
            assert response.status_code == code
            assert response.json()["error"]
        lone = client.post("/predict", content=b'{"text": "\\ud800"}', headers={"Content-Type": "application/json"})
        assert lone.status_code == 422


@pytest.mark.parametrize("name", ["t.csv", "t.TSV", "t.jsonl", "t.parquet", "t.xlsx"])
def test_a_table_is_no_list_of_texts(name, tmp_path):
    (tmp_path / name).write_text("text,label\ncat,1\n")
    with pytest.raises(UserError, match="it is a table; give a file with a text on each line"):
        Text("", 8).find(str(tmp_path / name))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_what_is_not_utf_8_is_refused_by_the_server_too(encoding):
    with pytest.raises(UserError, match="UTF-"):
        Text("", 8).decode("né, a text".encode(encoding), 1)


@pytest.mark.parametrize("line", ["cat", "cat\n", "cat\r\n", "\ufeffcat", "\n", " cat \n", "a\rb\n"])
def test_a_line_is_the_same_text_in_a_file_and_over_a_network(line, folder, tmp_path):
    feature = predictor.from_onnx(folder / "model.onnx").inputs["text"]
    (tmp_path / "line.txt").write_bytes(line.encode())
    (sample,), errors = feature.read(list(feature.find(str(tmp_path / "line.txt"))))
    assert errors == [""]
    assert sample["token"].tolist() == feature.decode(feature.from_json(line), 1)["token"].tolist()
