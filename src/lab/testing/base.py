"""The base of the suites: a config and its data, which is read once."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lab.build import build_task, init_from_data, read_data
from lab.data.base import Data
from lab.data.batches import Batch, Batches
from lab.engine.config.compose import compose_config
from lab.engine.training.lightning_quirks import filter_warnings


class Contract:
    """The base of the suites.

    Args:
        config: the words after `lab train`, with a tiny data set.
    """

    config: ClassVar[Sequence[str]]

    @pytest.fixture
    def overrides(self) -> Sequence[str]:
        """The words after `lab train`. Parametrise this fixture to run a suite on several configs."""
        return self.config

    @pytest.fixture
    def cfg(self, overrides: Sequence[str], tmp_path: Path) -> DictConfig:
        cfg = compose(*overrides)
        cfg.log_dir = str(tmp_path / "logs")
        return cfg

    @pytest.fixture
    def data(self, overrides: Sequence[str]) -> Data:
        return read(overrides)


def compose(*overrides: str) -> DictConfig:
    """The config of a training run on the CPU without figures."""
    filter_warnings()  # pytest restores the filters after each test
    return copy.deepcopy(_composed(overrides))


def read(overrides: Sequence[str]) -> Data:
    """The data of a config, read once. A test may change the attributes, but not the samples."""
    key = _data_settings(tuple(overrides))
    if key not in _data:
        _data[key] = read_data(compose(*overrides))
    return copy.copy(_data[key])


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    quick = ["trainer=cpu", "trainer.enable_progress_bar=false", "figures=false"]
    return compose_config("train", [*quick, *overrides])


@lru_cache(maxsize=256)
def _data_settings(overrides: tuple[str, ...]) -> str:
    return OmegaConf.to_yaml(OmegaConf.masked_copy(_composed(overrides), ["data", "cv", "fold", "seed"]), resolve=False)


_data: dict[str, Data] = {}  # by its settings


def build(cfg: DictConfig, data: Data, weights: int = 0) -> Any:
    """The task of a config, with weights from the seed `weights`. Its steps draw with the seed of the config."""
    L.seed_everything(weights, workers=True, verbose=False)
    task: Any = build_task(cfg, data.facts)
    init_from_data(task, data)
    return task


def rows(split: Batches, data: Data, which: Sequence[int]) -> Batch:
    """Samples of a split as a net gets them."""
    return data.on_after_batch_transfer(split.__getitems__(list(which)), 0)


def take(batch: Batch, which: Any) -> Batch:
    """Some rows of a batch."""
    return {name: values[which] for name, values in batch.items()}


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors in what a net or a step returns, such as a tensor, a tuple or a dict."""
    return [value for value in tree_leaves(outputs) if isinstance(value, Tensor)]


def learned(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def perturbed(module: nn.Module) -> nn.Module:
    """Add a little noise to the weights: layers that start at zero stop the gradient of earlier layers."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learned(module).values():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02)
    return module
