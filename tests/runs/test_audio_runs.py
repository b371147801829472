"""Runs on recordings: learned, predicted, explained, exported, served, and reported."""

import csv
import json
import shutil
import signal
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from resuming import outcome, stopped

from lab import runs, train
from lab.data import tiny_audio
from lab.engine.config.compose import compose_config
from lab.engine.config.run_overrides import add_run_overrides
from lab.engine.errors import RunError, UserError
from lab.features.read_audio import read_audio, wav
from lab.testing.tasks import same
from lab.verbs import predictor, report
from lab.verbs.explain import main as explain
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict
from lab.verbs.serve.server import PAGE, build

WORDS = (
    "experiment=audio_folder", "data.tiny=true", "data.sample_rate=8000", "data.max_seconds=1", "net.num_mels=40",
    "trainer=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on three made-up words, with figures."""
    folder = tmp_path_factory.mktemp("audio") / "run"
    words = [*WORDS, "trainer.max_epochs=12", "trainer.enable_progress_bar=false", f"run={folder}"]
    train.main(compose_config("train", [*words, "data.batch_size=16", "data.group='([a-z]+)_'"]))
    return folder


@pytest.fixture
def recordings(tmp_path):
    """Recordings of two words at other sample rates, and files that are none."""
    root = tmp_path / "in"
    root.mkdir()
    for name in ("oh", "we"):
        waveform = tiny_audio.word(name, 1.0, 9)
        waveform = np.interp(np.arange(0, len(waveform), 0.5), np.arange(len(waveform)), waveform)  # at 16 kHz
        (root / f"{name}.wav").write_bytes(wav(waveform, 16000))
    (root / "text.wav").write_bytes(b"text")
    (root / "cut.wav").write_bytes((root / "oh.wav").read_bytes()[:1500])
    return root


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_learns_words_of_other_speakers(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["test/acc"] > 0.9
    assert all(row["sample"].endswith(".wav") for row in table(folder / "test_predictions.csv"))


def test_figures_are_seen_and_heard(folder, tmp_path):
    found = {path.name for path in (folder / "figures").iterdir()}
    assert {"train_samples.png", "test_confusion.png", "test_least_sure.png"} <= found
    sounds = sorted(name for name in found if name.startswith("test_least_sure_") and name.endswith(".wav"))
    assert 0 < len(sounds) <= 12
    assert sounds[0].startswith("test_least_sure_01_")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(folder), {"audio": 0}).Reload().Tags()["audio"]
    assert any(tag.startswith("test/least_sure/01_") for tag in tags)
    report.main([f"run={folder}", f"output={tmp_path}/report.html"])
    page = (tmp_path / "report.html").read_text()
    assert page.count('<audio controls src="data:audio/wav;base64,') == len(
        [name for name in found if name.endswith(".wav")]
    )


def test_predictions_name_the_files_that_are_none(folder, recordings, tmp_path, capsys):
    output = tmp_path / "out.csv"
    cfg = compose_config("predict", [f"run={folder}", f"input={recordings}", f"output={output}"])
    with pytest.raises(RunError, match="1 of 4 items could not be read"):
        predict.main(cfg)
    rows = {row["path"].rpartition("/")[2]: row for row in table(output)}
    assert (rows["oh.wav"]["class"], rows["we.wav"]["class"]) == ("oh", "we")
    assert rows["text.wav"]["error"].startswith("not a readable recording (")
    assert not rows["cut.wav"]["error"]
    assert "1 of 4 recordings are truncated" in capsys.readouterr().err


def test_an_exported_model_takes_recordings_of_any_length(folder, recordings, tmp_path):
    """And gives the answers of the run, without torch."""
    export.main(compose_config("export", [f"run={folder}", f"output={tmp_path}/model.onnx", "int8=true"]))
    reports = json.loads((tmp_path / "export.json").read_text())
    assert max(reports["model_int8.onnx"]["max_difference"].values()) < 0.1, "the spectrogram keeps its precision"
    exported = reports["model.onnx"]
    assert exported["same_answer"] == exported["num_samples"] > 0
    assert max(exported["max_difference"].values()) < 1e-4
    file, run = predictor.from_onnx(tmp_path / "model.onnx"), predictor.from_run(str(folder), {})
    (audio,) = file.inputs.values()
    for num in (1, 79, 8000, 12345):
        waveform = np.random.default_rng(num).normal(0, 0.1, num).astype(np.float32)
        answers = [each.answers([audio.sample(waveform)] * 2, [0, 1])[1]["class"] for each in (file, run)]
        np.testing.assert_allclose(*answers, atol=1e-5)


def test_explanations_are_on_the_spectrogram(folder, recordings):
    explain.main(compose_config("explain", [f"run={folder}", "num_mistakes=1"]))
    scores = json.loads((folder / "explain/report.json").read_text())["methods"]
    assert scores["integrated_gradients"]["deletion"] < scores["random"]["deletion"]
    assert scores["integrated_gradients"]["insertion"] > scores["random"]["insertion"]
    assert (folder / "explain/right.png").stat().st_size > 10_000
    assert len(list((folder / "explain").glob("right_*.wav"))) == 3
    explain.main(compose_config("explain", [f"run={folder}", f"input={recordings}/oh.wav"]))
    assert json.loads((folder / "explain/report.json").read_text())["samples"][0]["prediction"] == ["oh"]


def test_attributions_of_the_parts_are_those_of_the_net(folder):
    """The front end and the rest give the logits of the net; integrated gradients sum to the change of a logit."""
    from lab.verbs.explain.audio import AudioExplainer, integrated_gradients

    _, data, task = runs.load(folder, test_split=True)
    task.eval()
    front_end, rest = AudioExplainer(data.facts.features["audio"]).split(task.net)
    batch = data.splits["test"].__getitems__([3])
    spectrogram = front_end(batch["waveform"])
    logits = task.net(batch["waveform"], batch["waveform_length"])
    torch.testing.assert_close(rest(spectrogram), logits, atol=1e-5, rtol=1e-5)
    target = logits.argmax(1)
    change = (logits - rest(torch.zeros_like(spectrogram)))[0, target]
    total = integrated_gradients(rest, spectrogram, target).sum()
    assert total.item() == pytest.approx(change.item(), rel=0.05)


@pytest.fixture(scope="module")
def client(folder):
    cfg = compose_config("serve", [f"run={folder}", "max_megapixels=0.05"])
    with TestClient(build(cfg, predictor.from_run(str(folder), cfg.trainer), "audio", None)) as client:
        yield client


def post(client, path, content):
    return client.post(path, content=content, headers={"content-type": "audio/wav"})


def test_a_server_answers_plays_and_explains(client, recordings):
    answer = post(client, "/explain", (recordings / "we.wav").read_bytes())
    assert answer.status_code == 200, answer.text
    assert answer.json()["class"] == "we"
    assert answer.json()["inputs"]["audio"].startswith("<audio controls")
    assert "<img" in answer.json()["explanation"]
    assert client.get("/health").json()["inputs"]["audio"]["accept"] == "audio/*"
    page = client.get("/")
    assert "media-src data: blob:" in page.headers["content-security-policy"]
    assert "getUserMedia" in page.text


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"text", 400, "The recording can't be read: Format not recognised."),
        (wav(np.zeros(0), 8000), 400, "it has no samples"),
        (wav(np.zeros(60_000), 8000), 413, "The recording is too long: it has more than 50,000 samples"),
    ],
)
def test_a_server_refuses_in_a_sentence(client, content, code, said):
    answer = post(client, "/predict", content)
    assert answer.status_code == code
    assert said in answer.json()["error"]


@pytest.mark.skipif(which("node") is None, reason="needs node")
def test_the_page_sends_what_the_microphone_records(tmp_path):
    command = ["node", Path(__file__).with_name("microphone.mjs"), PAGE, tmp_path / "sent.wav"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    shown, error = map(json.loads, done.stdout.splitlines())
    assert shown == {"label": "Stop", "after": "Record", "paths": ["/predict", "/explain"], "stopped": 1}
    assert error.startswith("The microphone cannot be used (")
    clip = read_audio((tmp_path / "sent.wav").read_bytes(), 48000, 1.0)
    assert (clip.sample_rate, clip.is_truncated) == (48000, False)
    np.testing.assert_allclose(clip.waveform, [0, 0.5, -1, 1], atol=1e-4)


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path):
    """Also with augmentation and with batches of so many seconds."""

    def lab_train(folder):
        words = [*WORDS, "data.seconds_per_batch=4", "trainer.max_epochs=2", "figures=false", folder]
        return train.main(compose_config("train", add_run_overrides(words)))

    lab_train(f"run={tmp_path}/whole")
    stopped(5, signal.SIGTERM, f"run={tmp_path}/cut", start=lab_train)
    lab_train(f"run={tmp_path}/cut")
    for part, other in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "cut"), strict=True):
        assert same(part, other)


def test_a_run_with_another_sample_rate_is_not_resumed(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(UserError, match="sample_rate"):
        train.main(compose_config("train", [*WORDS, "data.sample_rate=16000", f"run={copy}", "trainer.max_epochs=13"]))


def test_encoders_have_no_spectrogram_to_explain(folder):
    from lab.verbs.explain.audio import AudioExplainer

    with pytest.raises(UserError, match="only nets with a spectrogram are explained"):
        AudioExplainer(runs.load(folder)[1].facts.features["audio"]).split(torch.nn.Identity())
