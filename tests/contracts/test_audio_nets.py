"""Nets for audio: the front end against its formula, and padding that changes no answer."""

import math

import numpy as np
import pytest
import torch

from lab.nets.audio import AudioCNN, AudioCRNN, reversed_place
from lab.nets.audio_encoder import AudioEncoder
from lab.nets.log_mel import LogMel, mel_filters
from lab.testing.base import perturbed

RATE = 8000
NETS = {"cnn": AudioCNN, "crnn": AudioCRNN}


def waveforms(*lengths):
    generator = torch.Generator().manual_seed(0)
    waveform = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveform, lengths, strict=True):
        row[:length] = torch.randn(length, generator=generator) * 0.3
    return waveform, torch.tensor(lengths)


def by_formula(waveform, rate, num_mels):
    """The log-mel spectrogram in float64, by a matrix of the discrete Fourier transform and a loop over the bands."""
    size, hop = round(0.032 * rate), round(0.01 * rate)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    padded = np.pad(waveform, size // 2)
    frames = np.stack([padded[i : i + size] * window for i in range(0, len(waveform) + 1, hop)])
    angle = -2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
    magnitude = abs(frames @ np.exp(angle).T)  # (frames, size // 2 + 1)

    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    edges = [
        700 * (10 ** ((mel(20) + (mel(rate / 2) - mel(20)) * i / (num_mels + 1)) / 2595) - 1)
        for i in range(num_mels + 2)
    ]
    bands = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        weight = []
        for k in range(size // 2 + 1):
            hertz = k * rate / size
            rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
            weight.append(max(0.0, min(rising, falling)) * 2 / (high - low))
        bands.append(magnitude @ np.array(weight))
    return np.log(np.maximum(np.array(bands), 1e-5)), np.array(bands)


@pytest.mark.parametrize(("rate", "num_mels"), [(8000, 40), (16000, 64), (16000, 80)])
def test_the_front_end_is_its_formula(rate, num_mels):
    waveform, _ = waveforms(rate // 4)
    expected, linear = by_formula(waveform[0].double().numpy(), rate, num_mels)
    front_end = LogMel(rate, num_mels)
    found = front_end.log_mel(waveform)[0].double().numpy()
    np.testing.assert_allclose(np.exp(found), linear, atol=1e-6, rtol=2e-5)
    np.testing.assert_allclose(found, expected, atol=5e-5)


# Frequency -> band -> weight: melscale_fbanks(size // 2 + 1, 20.0, rate / 2, num_mels, rate, "slaney", "htk") of
# torchaudio 2.11.1
FILTERS = {
    (8000, 256, 40): {
        5: {2: 0.0057202172465622425, 3: 0.01980312168598175},
        20: {12: 0.011311388574540615, 13: 0.0051841819658875465},
        40: {20: 0.0026686633937060833, 21: 0.008538879454135895},
        100: {35: 0.0029670321382582188, 36: 0.0027474844828248024},
        128: {},
    },
    (16000, 512, 64): {
        5: {3: 0.015035917051136494, 4: 0.015432383865118027},
        20: {14: 0.001869674539193511, 15: 0.017814921215176582},
        100: {42: 0.003070180071517825, 43: 0.0037503025960177183},
        128: {47: 0.00036470466875471175, 48: 0.005184490699321032},
    },
}
# Bands 0, 10, 20, 39 at frames 0, 10, 25, 50 of MelSpectrogram(8000, 256, 256, 80, 20.0, 4000.0, n_mels=40, power=1.0,
# norm="slaney", mel_scale="htk", pad_mode="constant") of torchaudio 2.11.1, at least 1e-5, as a logarithm
LOG_MEL = [
    [-2.165206, -5.3717842, -5.2619667, -2.272095],
    [-4.9892712, -8.5911083, -1.2961018, -3.92469],
    [-6.7128, -11.5129251, -11.3197393, -3.4473236],
    [-8.3292685, -11.5129251, -11.5129251, -5.1636443],
]


@pytest.mark.parametrize("sizes", FILTERS)
def test_filters_are_those_of_torchaudio(sizes):
    filters = mel_filters(*sizes)
    for frequency, bands in FILTERS[sizes].items():
        expected = torch.zeros(sizes[2])
        for band, weight in bands.items():
            expected[band] = weight
        torch.testing.assert_close(filters[:, frequency], expected, atol=1e-6, rtol=0)


def test_the_log_mel_spectrogram_is_that_of_torchaudio():
    n = torch.arange(4000)
    waveform = (n * 0.1).sin() * 0.3 + (n**2 * 1e-4).sin() * 0.2
    found = LogMel(8000, 40).log_mel(waveform[None])[0][[0, 10, 20, 39]][:, [0, 10, 25, 50]]
    torch.testing.assert_close(found.exp(), torch.tensor(LOG_MEL).exp(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, torch.tensor(LOG_MEL), atol=2e-6, rtol=0)


def test_every_band_has_a_frequency():
    assert (mel_filters(8000, 256, 40) > 0).any(1).all()
    with pytest.raises(ValueError, match="200 mel bands are too many at 8000 Hz"):
        mel_filters(8000, 256, 200)


def test_a_spectrogram_is_normalised_and_independent_of_loudness():
    waveform, length = waveforms(4000, 2500)
    front_end = LogMel(RATE, 40)
    spectrogram, mask = front_end(waveform, length)
    assert mask.sum(2).flatten().tolist() == [51, 32]
    torch.testing.assert_close((spectrogram * mask).sum(2) / mask.sum(2), torch.zeros(2, 40), atol=1e-5, rtol=0)
    assert not spectrogram[1, :, 32:].any()
    torch.testing.assert_close(front_end(waveform * 0.2, length)[0], spectrogram, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_padding_changes_no_answer(name):
    """A recording alone, in a batch, and with a second of silence in its padding."""
    net = perturbed(NETS[name](RATE, 10)).eval()
    waveform, length = waveforms(3334, 1148, 18262, 1, 80, 79)
    with torch.no_grad():
        whole = net(waveform, length)
        assert whole.isfinite().all()
        longer = net(torch.nn.functional.pad(waveform, (0, RATE)), length)
        alone = torch.cat([net(waveform[i : i + 1, :n], length[i : i + 1]) for i, n in enumerate(length.tolist())])
    torch.testing.assert_close(longer, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("length", [0, 1, 4000])
def test_silence_has_finite_logits_and_gradients(name, length):
    net = NETS[name](RATE, 10)
    logits = net(torch.zeros(2, max(1, length)), torch.tensor([length, length]))
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_reversed_place_is_within_each_recording():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]])[:, None]
    assert reversed_place(mask)[..., 0].tolist() == [[2, 1, 0, 3], [3, 2, 1, 0]]


def test_the_default_net_is_small():
    assert sum(p.numel() for p in AudioCNN(RATE, 10).parameters()) == 33_418


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="expected an odd number, got 8"):
        AudioCNN(RATE, 10, kernel=8)


TINY_ENCODER = {
    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2],
    "num_feat_extract_layers": 2, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


class TestAudioEncoder:
    @pytest.fixture(autouse=True)
    def needs_transformers(self):
        pytest.importorskip("transformers", reason="transformers is not installed: lab-template[pretrained]")

    def test_padding_changes_no_answer(self):
        torch.manual_seed(0)
        net = AudioEncoder(10, 16_000, None, TINY_ENCODER).eval()
        waveform, length = waveforms(900, 400, 1200, 1, 20)
        with torch.no_grad():
            whole = net(waveform, length)
            longer = net(torch.nn.functional.pad(waveform, (0, 500)), length)
            alone = torch.cat([net(waveform[i : i + 1, :n], length[i : i + 1]) for i, n in enumerate(length.tolist())])
        assert whole.isfinite().all()
        torch.testing.assert_close(longer, whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_weights_of_a_folder_are_frozen_or_fine_tuned(self, frozen, tmp_path):
        first = AudioEncoder(10, 16_000, None, TINY_ENCODER)
        first.encoder.save_pretrained(tmp_path)
        net = AudioEncoder(10, 16_000, str(tmp_path), frozen=frozen)
        assert all(p.equal(q) for p, q in zip(first.encoder.parameters(), net.encoder.parameters(), strict=True))
        net(*waveforms(900, 400)).sum().backward()
        grown = [p.grad is not None and bool(p.grad.any()) for p in net.encoder.parameters()]
        assert any(grown) is not frozen
        assert net.encoder.training is not frozen

    @pytest.mark.parametrize(
        ("rate", "weights", "config", "said"),
        [
            (16_000, None, None, "expected an encoder: set net.weights"),
            (8_000, "x", None, "speech encoders take 16000 Hz: set data.sample_rate=16000"),
            (16_000, "/none", None, "transformers cannot load /none"),
            (16_000, None, {"model_type": "none"}, "transformers cannot load"),
        ],
    )
    def test_what_is_no_encoder_is_an_error_in_a_line(self, rate, weights, config, said):
        with pytest.raises(ValueError, match=said) as error:
            AudioEncoder(10, rate, weights, config)
        assert len(str(error.value).splitlines()) == 1
