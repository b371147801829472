"""The memory format of the images inside a net."""

import inspect
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from lab.features.base import Feature, stack


def set_memory_format(
    net: nn.Module, channels_last: bool | Literal["auto"], accelerator: str, features: Mapping[str, Feature]
) -> None:
    """Let the convolutions of a net keep the channels of a pixel together, if that is faster. Changes the net in place.

    On a CPU, a training step of the nets of lab with convolutions takes 0.6 to 0.9 of the time (docs/benchmarks.md).

    Args:
        net: a new net.
        channels_last: "auto" chooses it on a CPU for a net that works with it. `Tensor.view` may not.
        accelerator: of the trainer.
        features: of the data.
    """
    if channels_last == "auto":
        is_on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
        channels_last = is_on_cpu and any(isinstance(module, nn.Conv2d) for module in net.modules())
        if channels_last and not works(net, features):
            return
    if channels_last:
        net.to(memory_format=torch.channels_last)


def works(net: nn.Module, features: Mapping[str, Feature]) -> bool:
    """Return whether the net can evaluate an example in this format. The net and the random numbers do not change."""
    names = inspect.signature(net.forward).parameters
    modes = [(module, module.training) for module in net.modules()]
    net.eval().to(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            net(**{name: value for name, value in example(features).items() if name in names})
    except Exception:  # such as: view size is not compatible; the first step reports what is wrong in both formats
        return False
    finally:
        net.to(memory_format=torch.contiguous_format)
        for module, training in modes:
            module.training = training
    return True


def example(features: Mapping[str, Feature]) -> dict[str, Tensor]:
    """A batch of two samples of the features that have an example."""
    batch: dict[str, Tensor] = {}
    for feature in features.values():
        if type(feature).example is not Feature.example:
            batch |= {name: torch.from_numpy(array) for name, array in stack([feature.example()] * 2).items()}
    return {name: value.float() if value.dtype == torch.uint8 else value for name, value in batch.items()}
