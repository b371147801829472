import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from lab.engine.constraints import Fraction

RATE = 16_000  # Hz, of the models' pretraining


class AudioEncoder(nn.Module):
    """A pretrained speech encoder of Hugging Face's transformers, the mean of its last states, and a linear layer.

    The encoder takes waveforms, such as wav2vec 2.0 (Baevski et al. 2020) or HuBERT (Hsu et al. 2021). Each waveform is
    normalised to mean 0 and variance 1. Padding changes no logit if the encoder normalises per layer
    (`feat_extract_norm: layer`); the group norm of the base models sees it. The encoder's own SpecAugment is off: it
    needs longer recordings, and draws from NumPy's generator.

    Args:
        weights: a folder written by `save_pretrained`, or a name on the hub.
        config: settings of the encoder that replace those of `weights`, as a mapping; with `weights: null`, the whole
            configuration, for random weights.
        frozen: do not train the encoder, and switch its dropout off.
        dropout: probability of dropping an element of the mean.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        sample_rate: PositiveInt,
        weights: str | None,
        config: dict[str, Any] | None = None,
        frozen: bool = False,
        dropout: Fraction = 0.1,
    ) -> None:
        super().__init__()
        if weights is None and config is None:
            raise ValueError("expected an encoder: set net.weights to a folder, or to a name on Hugging Face's hub")
        if sample_rate != RATE:
            raise ValueError(f"speech encoders take {RATE} Hz: set data.sample_rate={RATE}")
        self.encoder = encoder(weights, config or {})
        self.frozen = frozen
        self.encoder.requires_grad_(not frozen)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.encoder.config.hidden_size, num_classes))
        self.train()  # transformers returns modules in eval mode, and Lightning keeps the mode

    def forward(self, waveform: Tensor, waveform_length: Tensor) -> Tensor:
        """(B, T) waveform and the (B,) number of its samples -> (B, num_classes) logits."""
        if self.frozen:
            self.encoder.eval()
        least = shortest(self.encoder.config)
        waveform = F.pad(waveform, (0, max(0, least - waveform.shape[1])))
        length = waveform_length.clamp(min=least)
        inside = (torch.arange(waveform.shape[1], device=waveform.device) < length[:, None]).to(waveform.dtype)
        mean = (waveform * inside).sum(1, keepdim=True) / length[:, None]
        centred = (waveform - mean) * inside
        scaled = centred / (centred.square().sum(1, keepdim=True) / length[:, None] + 1e-7).sqrt()
        state = self.encoder(scaled, attention_mask=inside.long()).last_hidden_state
        num = self.encoder._get_feat_extract_output_lengths(length)
        weight = (torch.arange(state.shape[1], device=state.device) < num[:, None]).to(state.dtype)[..., None]
        return self.head((state * weight).sum(1) / weight.sum(1))


def encoder(weights: str | None, config: Mapping[str, Any]) -> Any:
    """Return the encoder.

    Raises:
        ValueError: transformers is not installed, or does not accept the weights or the configuration.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise ValueError("it needs transformers: pip install 'lab-template[pretrained]'") from error
    config = {"apply_spec_augment": False, **config}
    try:
        if weights:
            return AutoModel.from_pretrained(weights, **config)
        return AutoModel.from_config(AutoConfig.for_model(**config))
    except Exception as error:  # several libraries raise different errors
        shown = weights or json.dumps(dict(config))
        raise ValueError(f"transformers cannot load {shown[:80]} ({' '.join(str(error).split())[:200]})") from error


def shortest(config: Any) -> int:
    """The number of samples that give one frame."""
    num = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        num = (num - 1) * stride + kernel
    return num
