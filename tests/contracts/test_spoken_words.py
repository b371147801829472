"""Words spoken by eSpeak NG: splits by voice, the same samples in each process, and clear lines without it."""

import subprocess
import sys

import numpy as np
import pytest

from lab.build import read_data
from lab.data import espeak, spoken_words, tiny_audio
from lab.data.espeak import Request, spoken
from lab.engine.errors import UserError

needs_espeak = pytest.mark.skipif(not espeak.find_spec("espeakng_loader"), reason="needs lab-template[voices]")


def data(compose, *more):
    return read_data(compose("experiment=speech_commands", *more))


def test_no_voice_is_in_two_splits(compose):
    read = data(compose, "data.tiny=true", "data.takes=2")
    voices = {split: {name.split("_")[0].split("+")[1] for name in names} for split, names in read.names.items()}
    assert sum(map(len, voices.values())) == len(set.union(*voices.values())) == len(tiny_audio.SPEAKERS)
    assert sum(read.facts.num_samples.values()) == 6 * 2 * 2 * 3
    assert read.facts.features["label"].class_names == ["oh", "ya", "we"]


def test_a_recording_depends_on_its_voice_and_its_word(compose, monkeypatch):
    """Speed and pitch are the same with other words; another seed draws others. Silence at the ends is left out."""
    made: list[list[Request]] = []

    def make(requests):
        made.append(requests)
        noise = np.random.default_rng(len(made)).integers(-9000, 9000, (len(requests), 2205)).astype("<i2")
        return [np.pad(clip, 999) for clip in noise], 22050

    monkeypatch.setattr(spoken_words, "spoken", make)
    monkeypatch.setattr(spoken_words, "variants", lambda: ["ann", "bob", "klatt", "klatt2"])
    cut = data(compose, "data.words=[yes,stop]").splits["train"].length
    assert (cut == 800).all()
    data(compose, "data.words=[go,stop,'yes']")
    data(compose, "data.words=[yes,stop]", "data.split_seed=1")
    assert {r for r in made[0] if r.text == "stop"} == {r for r in made[1] if r.text == "stop"}
    assert len({(r.speed, r.pitch) for r in made[0]}) > 10
    assert not set(made[0]) & set(made[2])
    with pytest.raises(UserError, match=r"^data.words: a word occurs more than once"):
        data(compose, "data.words=[go,go]")


def test_without_espeak_the_line_names_two_ways(compose, monkeypatch):
    monkeypatch.setattr(espeak, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lab-template\[voices\]'.* experiment=spoken_digits") as error:
        data(compose)
    assert len(str(error.value).splitlines()) == 1


@needs_espeak
def test_a_new_process_speaks_the_same_samples():
    requests = [Request(word, "en-us+Alicia", 175, 50) for word in ("yes", "yes", "", "no")]
    (first, again, nothing, other), rate = spoken(requests)
    assert rate == 22050
    assert len(first) > 0.2 * rate
    assert not np.array_equal(first, again), "a voice keeps its phase: each set needs a new process"
    assert not nothing.any()
    assert all(np.array_equal(*pair) for pair in zip((first, again, nothing, other), spoken(requests)[0], strict=True))


@needs_espeak
def test_a_voice_that_does_not_exist_is_named():
    assert len(espeak.variants()) == 87
    with pytest.raises(UserError, match=r"^error: data: eSpeak NG failed: it has no voice none$"):
        spoken([Request("yes", "none", 175, 50)])


@needs_espeak
def test_a_file_of_the_working_directory_is_not_imported(tmp_path):
    (tmp_path / "json.py").write_text("raise ValueError('the wrong file')")
    code = "from lab.data import espeak; print(espeak.spoken([espeak.Request('yes', 'en-us', 175, 50)])[1])"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "22050\n", done.stderr


@needs_espeak
@pytest.mark.parametrize("name", ["espeak-ng-data", "other"])
def test_a_missing_data_folder_is_a_line(name, tmp_path, monkeypatch):
    """The package has no data folder, or one without voices."""
    import espeakng_loader

    (tmp_path / name).mkdir()
    monkeypatch.setattr(espeakng_loader, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match=r"^error: data: eSpeak NG failed: .* pip install --force-reinstall") as error:
        espeak.variants()
    assert len(str(error.value).splitlines()) == 1
