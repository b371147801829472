"""Data modules for audio: their contracts by their tiny versions, then folders, splits, reports and augmentation."""

import shutil

import numpy as np
import pytest
import torch

from lab.build import read_data
from lab.data import spoken_digits, tiny_audio
from lab.data.augment_audio import AudioAugment, cropped, resampled, shifted, with_noise, without_band, without_span
from lab.data.waveforms import Waveforms
from lab.engine.errors import UserError
from lab.features.read_audio import wav

RATE = 8000


def fill(root, classes="ab", num=4, seconds=0.1, rate=RATE, name="{i}.wav"):
    """Write recordings: noise, a different one in each file."""
    for letter in classes:
        (root / letter).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            waveform = np.random.default_rng([ord(letter), i]).normal(0, 0.1, int(seconds * rate))
            (root / letter / name.format(i=i)).write_bytes(wav(waveform, rate))


@pytest.fixture
def folder(compose):
    def folder(root, *more):
        return read_data(compose("experiment=audio_folder", f"data.root={root}", f"data.sample_rate={RATE}", *more))

    return folder


def test_a_folder_for_each_class(folder, tmp_path):
    fill(tmp_path, "cab", 8)
    data = folder(tmp_path)
    assert data.facts.features["label"].class_names == ["a", "b", "c"]
    assert data.facts.num_samples == {"train": 18, "val": 3, "test": 3}
    batch = data.splits["train"].__getitems__([0, 5])
    assert {name: values.dtype for name, values in batch.items()} == {
        "waveform": torch.float32, "waveform_length": torch.int64, "label": torch.int64, "index": torch.int64,
    }  # fmt: skip
    assert batch["waveform_length"].tolist() == [800, 800]


def test_groups_stay_whole(folder, tmp_path):
    for speaker in "pqrstu":
        fill(tmp_path, "ab", 3, name=f"{speaker}_{{i}}.wav")
        for letter in "ab":  # other noise for each speaker
            for i in range(3):
                noise = np.random.default_rng([ord(speaker), ord(letter), i]).normal(0, 0.1, 800)
                (tmp_path / letter / f"{speaker}_{i}.wav").write_bytes(wav(noise, RATE))
    data = folder(tmp_path, "data.group='([a-z])_[0-9]'")
    speakers = {split: {name[2] for name in names} for split, names in data.names.items()}
    assert sum(map(len, speakers.values())) == 6
    assert "0 of the 1 groups (speakers) of test are in train" in data.report.full()
    folds = {next(iter(fold_speakers(folder, tmp_path, fold))) for fold in range(6)}
    assert folds == set("pqrstu"), "each speaker is a fold"


def fold_speakers(folder, root, fold):
    data = folder(root, "data.group='([a-z])_[0-9]'", "cv=6", f"fold={fold}")
    return {name[2] for name in data.names["test"]}


def test_a_cached_set_is_the_same_as_one_that_is_decoded_for_each_batch(folder, tmp_path):
    fill(tmp_path, num=8, rate=16000)
    cached, plain = (folder(tmp_path, f"data.cache={cache}") for cache in ("true", "false"))
    assert cached.facts == plain.facts
    for split in ("train", "val", "test"):
        every = [each.splits[split].__getitems__(range(len(each.splits[split]))) for each in (cached, plain)]
        assert all(every[0][name].equal(every[1][name]) for name in every[0])
    assert isinstance(plain.splits["train"], Waveforms)
    assert plain.splits["train"].length.tolist() == cached.splits["train"].length.tolist()


def test_the_report_tells_what_is_doubtful(folder, tmp_path):
    fill(tmp_path, num=9)
    (tmp_path / "a/silent.wav").write_bytes(wav(np.zeros(900), RATE))
    (tmp_path / "a/clipped.wav").write_bytes(wav(np.random.default_rng(0).normal(0, 9, 900), RATE))
    (tmp_path / "b/long.wav").write_bytes(wav(np.random.default_rng(1).normal(0, 0.1, 3 * RATE), RATE))
    (tmp_path / "b/cut.wav").write_bytes((tmp_path / "b/0.wav").read_bytes()[:900])
    (tmp_path / "b/fast.wav").write_bytes(wav(np.random.default_rng(2).normal(0, 0.1, 4410), 44100))
    for copy in "xyz":
        shutil.copy(tmp_path / "a/0.wav", tmp_path / f"a/{copy}.wav")
    (tmp_path / "A").mkdir()
    fill(tmp_path, "A", 9)
    text = folder(tmp_path, "data.max_seconds=1").report.full()
    for line in (
        "a recording has 0.05 to 3.00 s",
        "8,000 Hz (34), 44,100 Hz (1)",
        "1 recordings of which only the middle 1 s are used",
        "1 of 35 recordings are silent, such as a/silent.wav",
        "1 of 35 recordings are clipped, such as a/clipped.wav",
        "1 of 35 recordings are truncated: the file is shorter than its header tells, such as b/cut.wav",
        "occur in it more than once",
        "'A' and 'a' are different classes with almost equal names",
    ):
        assert line in text, text


def test_only_recordings_longer_than_max_seconds_without_silence_are_cut(folder, tmp_path):
    fill(tmp_path, seconds=0.5)
    path = tmp_path / "a" / "0.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, RATE // 2)
    path.write_bytes(wav(np.pad(noise, 6 * RATE), RATE))
    said = "recordings of which only the middle"
    assert said not in folder(tmp_path, "data.trim=30").report.full()
    assert f"1 {said}" in folder(tmp_path, "data.trim=null").report.full()


def test_a_long_recording_pads_no_batch_beyond_its_limit(folder, tmp_path):
    fill(tmp_path, num=16)
    (tmp_path / "a/long.wav").write_bytes(wav(np.random.default_rng(0).normal(0, 0.1, 600 * RATE), RATE))
    data = folder(tmp_path, "data.max_seconds=2", "data.seconds_per_batch=4", "data.val_fraction=0.1")
    shapes = [batch["waveform"].shape for batch in data.train_dataloader()]
    assert max(rows * samples for rows, samples in shapes) <= 4 * RATE
    assert max(samples for _, samples in shapes) <= 2 * RATE


@pytest.mark.parametrize("skip", [False, True])
def test_a_bad_recording_is_named_or_left_out(folder, tmp_path, skip):
    fill(tmp_path, num=8)
    (tmp_path / "a/1.wav").write_bytes(b"text")
    (tmp_path / "b/2.wav").write_bytes(b"")
    if skip:
        data = folder(tmp_path, "data.skip_unreadable=true")
        assert sum(data.facts.num_samples.values()) == 14
        assert "2 recordings that can't be read" in data.report.full()
        return
    with pytest.raises(UserError, match="2 of 16 recordings can't be read") as error:
        folder(tmp_path)
    assert "a/1.wav is not a readable recording (" in str(error.value)
    assert "b/2.wav is not a readable recording (it is empty)" in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: None, "is not a folder"),
        (lambda x: x.mkdir(), "is empty. It holds a folder of recordings for each class"),
        (lambda x: (fill(x), (x / "c").mkdir()), "x/c has no recordings"),
        (lambda x: fill(x, "a"), "every training sample has the class a"),
    ],
)
def test_a_folder_that_is_none_is_named(folder, tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        folder(tmp_path / "x")


class TestSpokenDigits:
    def data(self, compose, *more):
        return read_data(compose("experiment=spoken_digits", "data.tiny=true", *more))

    def test_each_fold_leaves_a_speaker_out(self, compose):
        speakers = []
        for fold in range(6):
            data = self.data(compose, "cv=6", f"fold={fold}")
            of = {split: {name.split("_")[1] for name in names} for split, names in data.names.items()}
            assert len(of["test"]) == 1
            assert not of["test"] & (of["train"] | of["val"])
            assert of["val"] <= of["train"]
            speakers += of["test"]
        assert sorted(speakers) == sorted(tiny_audio.SPEAKERS)

    def test_the_official_split_is_by_takes(self, compose):
        data = self.data(compose, "data.split=takes")
        assert {name.split("_")[2] for name in data.names["test"]} == {f"{take}.wav" for take in range(5)}
        assert "6 of the 6 groups (speakers) of test are in train" in data.report.warnings
        with pytest.raises(UserError, match=r"data.split=takes has an official test set"):
            self.data(compose, "data.split=takes", "cv=6", "fold=0")

    def test_other_files_are_refused(self, compose):
        root = tiny_audio.spoken_digits()
        with pytest.raises(UserError, match="is not the Free Spoken Digit Dataset"):
            read_data(compose("experiment=spoken_digits", f"data.root={root}"))

    def test_it_is_downloaded_once_and_verified(self, compose, tmp_path, monkeypatch):
        source = tiny_audio.spoken_digits()
        packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", source.parent, source.name)
        monkeypatch.setattr(spoken_digits, "URL", f"file://{packed}")
        words = ("experiment=spoken_digits", f"data.root={tmp_path}/root")
        with pytest.raises(UserError, match="could not be downloaded .the archive has another content than expected."):
            read_data(compose(*words))
        assert not list((tmp_path / "root").iterdir())
        expected = spoken_digits.content_hash(sorted((source / "recordings").iterdir()))
        monkeypatch.setattr(spoken_digits, "SHA256", expected)
        assert sum(read_data(compose(*words)).facts.num_samples.values()) == 144
        monkeypatch.setattr(spoken_digits, "URL", "file:///none")
        read_data(compose(*words))

    def test_without_a_network_the_line_tells_what_to_do(self, compose, tmp_path, monkeypatch):
        monkeypatch.setattr(spoken_digits, "URL", "file:///none")
        with pytest.raises(UserError, match=r"could not be downloaded .*set data.root=PATH") as error:
            read_data(compose("experiment=spoken_digits", f"data.root={tmp_path}/none"))
        assert len(str(error.value).splitlines()) == 1


class TestGoogleCommands:
    def data(self, compose, *more):
        return read_data(compose("experiment=google_commands", *more))

    def test_the_lists_are_the_splits(self, compose):
        data = self.data(compose, "data.tiny=true")
        assert data.facts.features["label"].class_names == sorted(tiny_audio.WORDS)
        assert data.facts.num_samples == {"train": 48, "val": 32, "test": 16}
        speakers = {split: {name.split("/")[1].split("_")[0] for name in names} for split, names in data.names.items()}
        assert speakers == {"train": {"ada", "ben", "eve"}, "val": {"kim", "leo"}, "test": {"max"}}

    def test_unknown_and_silence_are_shares_of_the_words(self, compose):
        words = ("data.tiny=true", "data.words=[no,oh]", "data.unknown_fraction=0.25", "data.silence_fraction=0.5")
        data = self.data(compose, *words)
        assert data.facts.features["label"].class_names == ["no", "oh", "_unknown_", "_silence_"]
        counts = {split: data.splits[split].label.bincount().tolist() for split in ("train", "val", "test")}
        assert counts == {"train": [12, 12, 6, 12], "val": [8, 8, 4, 8], "test": [4, 4, 2, 4]}
        again = self.data(compose, *words, "seed=3")
        assert again.facts.fingerprint == data.facts.fingerprint
        assert self.data(compose, *words, "data.split_seed=3").facts.fingerprint != data.facts.fingerprint

    def test_it_has_no_folds(self, compose):
        with pytest.raises(UserError, match="cv: GoogleCommands has no folds"):
            self.data(compose, "data.tiny=true", "cv=3", "fold=0")

    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (lambda root: (root / "testing_list.txt").unlink(), "has no testing_list.txt"),
            (
                lambda root: (root / "oh/max_nohash_0.wav").unlink(),
                "lacks 1 recordings of its lists, such as oh/max",
            ),
            (lambda root: shutil.rmtree(root / "_background_noise_"), "_background_noise_ has no recordings"),
            (lambda root: shutil.rmtree(root / "no"), "has no folder no; it has"),
        ],
    )
    def test_a_folder_of_another_layout_is_named(self, compose, tmp_path, break_it, message):
        root = shutil.copytree(tiny_audio.google_commands(), tmp_path / "x")
        break_it(root)
        with pytest.raises(UserError, match=message):
            self.data(compose, f"data.root={root}", "data.words=[no,oh]")


class TestAugment:
    waveform = torch.randn(8, 2000, generator=torch.Generator().manual_seed(0)) * 0.1
    length = torch.tensor([2000, 1500, 900, 2000, 100, 1, 1999, 1200])
    waveform = waveform * (torch.arange(2000) < length[:, None])
    index = torch.arange(8)
    every = AudioAugment(crop=0.22, speed=0.2, shift=0.05, noise=True, gain=6, mask_time=0.2, mask_band=0.2)

    def test_nothing_asked_for_changes_nothing(self):
        waveform, length = AudioAugment()(self.waveform, self.length, self.index, 0, 0, RATE)
        assert waveform.equal(self.waveform)
        assert length.equal(self.length)

    def test_a_recording_is_augmented_alike_in_any_batch(self):
        """And with any padding; otherwise by seed, epoch and index."""
        whole, lengths = self.every(self.waveform, self.length, self.index, 3, 5, RATE)
        for some in ([6, 1], [4, 5], [0]):
            longer = torch.nn.functional.pad(self.waveform[some], (0, 777))
            waveform, length = self.every(longer, self.length[some], self.index[some], 3, 5, RATE)
            assert length.equal(lengths[some])
            size = int(length.max())
            torch.testing.assert_close(waveform[:, :size], whole[some][:, :size], atol=1e-6, rtol=1e-4)
        for seed, epoch in ((3, 6), (4, 5)):
            assert not self.every(self.waveform, self.length, self.index, seed, epoch, RATE)[1].equal(lengths)

    def test_padding_stays_zero(self):
        for epoch in range(20):
            waveform, length = self.every(self.waveform, self.length, self.index, 0, epoch, RATE)
            assert waveform.isfinite().all()
            assert (length >= 1).all()
            assert waveform.shape[1] >= length.max()
            assert not waveform[torch.arange(waveform.shape[1]) >= length[:, None]].any()

    def test_a_crop_is_a_part_of_a_longer_recording(self):
        ramp = torch.arange(1.0, 11).repeat(3, 1) * (torch.arange(10) < torch.tensor([[10], [10], [3]]))
        part, length = cropped(ramp, torch.tensor([10, 10, 3]), 4, torch.tensor([0.0, 0.999, 0.999]))
        assert part.tolist() == [[1, 2, 3, 4], [7, 8, 9, 10], [1, 2, 3, 0]]
        assert length.tolist() == [4, 4, 3]

    def test_speed_changes_pitch_and_length(self):
        tone = (2 * torch.pi * 400 * torch.arange(8000) / RATE).sin()[None]
        for factor in (0.8, 1.25):
            waveform, length = resampled(tone, torch.tensor([8000]), torch.tensor([factor]))
            assert length.item() == int(8000 / factor)
            peak = torch.fft.rfft(waveform[0, : length[0]]).abs().argmax() * RATE / length[0]
            assert peak.item() == pytest.approx(400 * factor, abs=2)
        same, length = resampled(tone, torch.tensor([8000]), torch.tensor([1.0]))
        assert same.equal(tone)

    def test_shift_puts_silence_before_and_after(self):
        waveform = torch.ones(2, 10)
        random = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # the most silence; the largest cut
        moved, length = shifted(waveform, torch.tensor([10, 8]), 8, random)
        assert length.tolist() == [10 + 8 + 4, 8 - 2]
        assert moved[0].tolist() == [0] * 8 + [1] * 10 + [0] * 4
        assert moved[1, :6].tolist() == [1] * 6

    def test_noise_has_the_loudness_asked_for(self):
        tone = (2 * torch.pi * 400 * torch.arange(8000) / RATE).sin()[None] * 0.3
        noise = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
        noise = noise / noise.square().mean(1, keepdim=True).sqrt()
        random = torch.tensor([[0.5, 0.9, 0.0, 0.1]])
        added = with_noise(tone, torch.tensor([8000]), noise, random) - tone
        ratio = 10 * torch.log10(tone.square().mean() / added.square().mean())
        assert ratio.item() == pytest.approx(5.0, abs=0.1)
        quiet = with_noise(tone, torch.tensor([8000]), noise, torch.tensor([[0.5, 0.9, 0.0, 0.9]]))
        assert quiet.equal(tone)

    def test_a_band_is_removed_and_the_rest_stays(self):
        """A quarter of all frequencies: 1500 to 2500 Hz."""
        at = torch.arange(8000) / RATE
        tones = torch.stack([(2 * torch.pi * hertz * at).sin() for hertz in (500, 2000, 3500)])
        kept = without_band(tones, 0.25, torch.tensor([[1.0, 0.5]]).expand(3, 2))[:, 1000:7000]
        level = kept.square().mean(1).sqrt() * 2**0.5
        torch.testing.assert_close(level, torch.tensor([1.0, 0.0, 1.0]), atol=0.02, rtol=0)

    def test_a_span_is_silenced(self):
        masked = without_span(torch.ones(1, 100), torch.tensor([80]), 0.5, torch.tensor([[0.5, 0.25]]))
        assert (masked[0] == 0).nonzero().flatten().tolist() == list(range(15, 35))

    def test_noise_of_a_folder_is_used(self, tmp_path):
        fill(tmp_path, num=2, rate=16000)
        augment = AudioAugment(noise=True, noise_root=str(tmp_path))
        noises = augment.noises(RATE)
        assert noises.shape == (4, 800)
        torch.testing.assert_close(noises.square().mean(1), torch.ones(4))
        waveform, _ = augment(self.waveform, self.length, self.index, 0, 0, RATE)
        assert not waveform.equal(self.waveform)
        with pytest.raises(UserError, match=r"data.augment.noise_root: .*none has no recordings"):
            AudioAugment(noise=True, noise_root=f"{tmp_path}/none").noises(RATE)
