"""The contract of the feature Audio; then every kind of file that it reads and refuses."""

import io
import struct
import wave

import numpy as np
import pytest

from lab.engine.errors import UserError
from lab.features.audio import Audio
from lab.features.base import TooLargeError, stack
from lab.features.read_audio import read_audio, trimmed, wav
from lab.testing import FeatureContract

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: lab-template[audio]")
RATE, ALL = 8000, np.inf


def tone(seconds=0.5, rate=RATE, hertz=440.0, loudness=0.5):
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(waveform, rate=RATE, format="WAV", subtype=None):
    with io.BytesIO() as file:
        soundfile.write(file, waveform, rate, format=format, subtype=subtype)
        return file.getvalue()


def riff(channels=1, rate=RATE, bits=16, tag=1, data=b"\0\0" * 100):
    """A WAV file with any header."""
    align = channels * bits // 8
    head = struct.pack("<HHIIHH", tag, channels, rate, (rate * align) % 2**32, align % 2**16, bits)
    body = b"WAVE" + b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


class TestAudio(FeatureContract):
    feature = Audio(sample_rate=RATE, max_seconds=1.0)
    contents = (wav(tone(0.3), RATE), wav(tone(2.0, 44100), 44100), encoded(tone(), format="FLAC"))
    samples = (feature.sample(tone(0.1)), feature.sample(np.array([2, -3], np.float32)))


AUDIO = TestAudio.feature


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "PCM_U8"), ("WAV", "ULAW"),
        ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read_whatever_its_name_is(format, subtype, channels, tmp_path):
    waveform = tone(0.5, 16000)
    content = encoded(np.stack([waveform] * channels, 1), 16000, format, subtype)
    (tmp_path / "named.wav").write_bytes(content)
    (sample,), errors = AUDIO.read([str(tmp_path / "named.wav")])
    assert errors == [""]
    found = AUDIO.waveform(sample)
    assert abs(len(found) - 4000) <= 1200, "MP3 adds silence"
    spectrum = np.abs(np.fft.rfft(found))
    assert abs(spectrum.argmax() * RATE / len(found) - 440) < 10
    assert found[1000:3000].std() == pytest.approx(0.5 / 2**0.5, abs=0.02)


def test_channels_are_averaged():
    left, right = tone(), np.zeros(4000, np.float32)
    found = AUDIO.decode(encoded(np.stack([left, right], 1), subtype="FLOAT"), ALL)
    np.testing.assert_allclose(AUDIO.waveform(found), left / 2, atol=1e-6)


def test_a_long_recording_is_cut_to_its_middle(tmp_path, capsys):
    ramp = np.arange(3 * RATE, dtype=np.float32) / (3 * RATE)
    (tmp_path / "a.wav").write_bytes(encoded(ramp, subtype="FLOAT"))
    (sample,), _ = AUDIO.read([str(tmp_path / "a.wav")])
    np.testing.assert_allclose(AUDIO.waveform(sample), ramp[RATE : 2 * RATE], atol=1e-6)
    assert "1 of 1 recordings are longer than 1 s; their middle is used" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [0.0, 0.01])
def test_silence_is_trimmed_before_the_middle_is_taken(quiet):
    """Silence before and after a recording, also with noise, changes nothing but 20 ms on both sides."""
    noise = quiet * np.random.default_rng(0).uniform(-1, 1, 5 * RATE).astype(np.float32)
    noise[3 * RATE : 3 * RATE + 4000] += tone()
    feature = Audio(RATE, 1.0, trim=30)
    found = feature.waveform(feature.decode(encoded(noise, subtype="FLOAT"), ALL))
    np.testing.assert_array_equal(found, noise[3 * RATE - 160 : 3 * RATE + 4160])
    assert not feature.clip(encoded(noise, subtype="FLOAT")).is_cut, "only the silence is longer than a second"
    silence = np.zeros(400, np.float32)
    assert len(feature.waveform(feature.decode(encoded(silence), ALL))) == 400


def test_trimming_counts_the_rest_of_the_last_frame():
    waveform = np.concatenate([np.zeros(RATE, np.float32), np.full(7, 0.5, np.float32)])
    assert len(trimmed(waveform, RATE, 20)) == 160 + 7


@pytest.mark.parametrize("num", [1, 2, 7])
@pytest.mark.parametrize("rate", [8000, 48000])
def test_a_recording_of_a_few_samples_is_one(num, rate):
    assert len(AUDIO.waveform(AUDIO.decode(wav(np.ones(num), rate), ALL))) >= 1


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_file_from_a_pipe_is_read(size):
    content = bytearray(wav(tone(), RATE))
    content[4:8] = content[40:44] = struct.pack("<I", size if size else 2**31 - 1)
    if size:
        clip = read_audio(bytes(content), RATE, 1.0)
        assert len(clip.waveform) == 4000
        assert not clip.is_truncated


BAD = {
    "empty": (b"", "it is empty"),
    "text": (b"a text that is no recording\n" * 9, "Format not recognised"),
    "head": (wav(tone(), RATE)[:30], "No 'data' chunk marker"),
    "no samples": (wav(np.zeros(0), RATE), "it has no samples"),
    "nan": (encoded(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), "samples that are NaN or infinite"),
    "inf": (encoded(np.array([0, np.inf, 0], np.float32), subtype="FLOAT"), "samples that are NaN or infinite"),
    "rate 0": (riff(rate=0), "incomplete"),
    "rate 10": (riff(rate=10), "its sample rate is 10 Hz; expected 1000 to 768000"),
    "rate 2^31 - 1": (riff(rate=2**31 - 1), "its sample rate is 2147483647 Hz"),
    "65535 channels": (riff(channels=65535), "Too many channels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_an_error_in_a_line(name, tmp_path):
    content, said = BAD[name]
    (tmp_path / "bad.wav").write_bytes(content)
    (tmp_path / "good.wav").write_bytes(wav(tone(), RATE))
    samples, errors = AUDIO.read([str(tmp_path / file) for file in ("bad.wav", "good.wav", "none.wav")])
    assert len(samples) == 1
    assert said in errors[0]
    assert errors[0].startswith("not a readable recording (")
    assert errors[1] == ""
    assert "No such file" in errors[2]
    with pytest.raises(UserError, match="^The recording can't be read: ") as error:
        AUDIO.decode(content, ALL)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_truncated_file_is_read_with_a_warning(tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(wav(tone(), RATE)[:3000])
    (sample,), errors = AUDIO.read([str(tmp_path / "a.wav")])
    assert errors == [""]
    assert sample["waveform_length"] == (3000 - 44) // 2
    assert "1 of 1 recordings are truncated" in capsys.readouterr().err


def test_a_header_that_claims_too_much_costs_no_memory():
    content = bytearray(encoded(tone(), format="FLAC"))
    place = content.index(b"fLaC") + 8 + 13  # the lowest 36 bits of 8 bytes are the number of samples
    content[place] = content[place] | 0x0F
    content[place + 1 : place + 5] = b"\xff" * 4
    assert soundfile.info(io.BytesIO(content)).frames == 2**36 - 1
    with pytest.raises(UserError, match="the audio can't be read"):
        read_audio(bytes(content), RATE, 1.0)


def test_a_server_accepts_so_many_samples():
    content = wav(tone(10.0), RATE)
    assert len(AUDIO.waveform(AUDIO.decode(content, 1.0))) == RATE
    with pytest.raises(TooLargeError, match="^The recording is too long: it has more than 50,000 samples"):
        AUDIO.decode(content, 0.05)


def test_a_waveform_becomes_a_file_and_a_player():
    suffix, content = AUDIO.file(AUDIO.sample(np.array([0.5, -2, 3], np.float32)), {})
    assert suffix == ".wav"
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (RATE, 1, 2, 3)
        assert np.frombuffer(file.readframes(3), "<i2").tolist() == [16384, -32767, 32767]
    batch = stack([AUDIO.sample(tone(0.1)), AUDIO.sample(tone(0.2))])
    assert batch["waveform"].shape == (2, 1600)
    row = {name: values[0] for name, values in batch.items()}
    np.testing.assert_array_equal(AUDIO.waveform(row), tone(0.1))
    assert AUDIO.html(row).startswith('<audio controls src="data:audio/wav;base64,UklGR')


def test_its_fact_is_the_sample_rate():
    assert AUDIO.facts() == {"sample_rate": RATE}
    assert AUDIO.changes(Audio(16000, 1.0)) == ["sample_rate"]
    assert AUDIO.changes(Audio(RATE, 3.0)) == []


def test_without_soundfile_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(UserError, match=r"^error: audio: .*pip install 'lab-template\[audio\]'$"):
        AUDIO.read([str(tmp_path / "a.wav")])
