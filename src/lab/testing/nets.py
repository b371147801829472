import ast
import copy
import inspect
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lab.build import build_task
from lab.data.base import Data
from lab.data.batches import Batch
from lab.engine.config import signatures
from lab.engine.errors import UserError
from lab.runs import check
from lab.testing.base import Contract, build, compose, learned, perturbed, read, rows, take, tensors

NUM = 6  # samples


class NetContract(Contract):
    """The properties of every net, for a batch of the data of the config.

    class TestMine(NetContract):
        config = ["experiment=mine", "data.tiny=true"]
    """

    @pytest.fixture
    def net(self, overrides: Sequence[str]) -> nn.Module:
        return copy.deepcopy(built(tuple(overrides)))

    @pytest.fixture
    def batch(self, net: nn.Module, data: Data) -> Batch:
        """The entries of a batch that the net takes."""
        split = data.splits["train"]
        every = rows(split, data, range(0, len(split), max(1, len(split) // NUM)))
        return {name: every[name][:NUM] for name in inspect.signature(net.forward).parameters if name in every}

    def test_it_takes_entries_of_a_batch(self, net: nn.Module, batch: Batch) -> None:
        parameters = inspect.signature(net.forward).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        assert needed <= batch.keys(), "arguments of forward that are not entries of a batch"
        assert batch

    def test_it_gives_a_row_for_each_sample(self, net: nn.Module, batch: Batch) -> None:
        outputs = tensors(net(**batch))
        assert outputs
        assert {len(output) for output in outputs if output.ndim} == {NUM}
        assert all(output.isfinite().all() for output in outputs)

    def test_every_parameter_gets_a_gradient_and_moves(self, net: nn.Module, batch: Batch) -> None:
        net = perturbed(net)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        outputs = [output for output in tensors(net(**batch)) if output.is_floating_point()]
        generator = torch.Generator().manual_seed(0)
        sum((output.float() * torch.randn(output.shape, generator=generator)).sum() for output in outputs).backward()  # type: ignore[union-attr]
        wanting = learned(net)
        assert not [name for name, p in wanting.items() if p.grad is None or not p.grad.any()]
        torch.optim.SGD(wanting.values(), lr=0.1).step()
        assert not [name for name, p in wanting.items() if p.equal(before[name])]

    def test_samples_are_independent_of_each_other(self, net: nn.Module, batch: Batch) -> None:
        net = perturbed(net).eval()
        whole = tensors(net(**batch))
        assert any(len(output.unique(dim=0)) > 1 for output in whole if output.ndim), "all outputs are equal"
        for i in range(NUM):
            alone = tensors(net(**take(batch, slice(i, i + 1))))
            for one, every in zip(alone, whole, strict=True):
                if one.ndim:
                    torch.testing.assert_close(one, every[i : i + 1], atol=1e-4, rtol=1e-4)

    def test_evaluation_is_deterministic_and_changes_nothing(self, net: nn.Module, batch: Batch) -> None:
        net = perturbed(net).eval()
        before = copy.deepcopy(net.state_dict())
        for one, other in zip(tensors(net(**batch)), tensors(net(**batch)), strict=True):
            assert one.equal(other)
        assert all(value.equal(before[name]) for name, value in net.state_dict().items())

    def test_weights_round_trip(self, net: nn.Module, batch: Batch, tmp_path: Path) -> None:
        net = perturbed(net).eval()
        torch.save(net.state_dict(), tmp_path / "net.pt")
        other = copy.deepcopy(net)
        with torch.no_grad():
            for p in other.parameters():
                p.fill_(1)
        other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))  # noqa: TID251 of this test
        for one, again in zip(tensors(net(**batch)), tensors(other(**batch)), strict=True):
            assert one.equal(again)

    def test_it_knows_nothing_of_lightning_and_hydra(self, net: nn.Module) -> None:
        found = imported(type(net).__module__)
        assert not found & {"lightning", "pytorch_lightning", "hydra", "omegaconf"}

    def test_its_arguments_are_annotated(self, net: nn.Module) -> None:
        takes, _ = signatures.parameters(type(net))
        assert not [name for name, p in takes.items() if p.annotation is inspect.Parameter.empty]

    def test_annotations_refuse_what_the_net_does(self, net: nn.Module, cfg: DictConfig, data: Data) -> None:
        """A negative number is refused before any data is read, or accepted."""
        numbers = [name for name, value in cfg.net.items() if type(value) in (int, float)]
        for name in numbers:
            other = OmegaConf.merge(cfg, {"net": {name: -1}})
            assert isinstance(other, DictConfig)
            if list(check.wrong_calls(other, ["data", "net"])):
                continue
            try:
                build_task(other, data.facts)
            except (ValueError, TypeError, RuntimeError, UserError) as error:
                pytest.fail(f"net.{name}=-1: its annotation should refuse it: {error}")


@lru_cache(maxsize=64)
def built(overrides: tuple[str, ...]) -> nn.Module:
    """The net of a config, built once. A test changes a copy of it."""
    net: nn.Module = build(compose(*overrides), read(overrides)).net
    return net


def imported(name: str) -> set[str]:
    """The packages that a module imports, directly or by modules of its package. The module is not imported."""
    own, found, seen, waiting = name.partition(".")[0], set(), set(), [name]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found.add(module.partition(".")[0])
        if module.partition(".")[0] == own:
            waiting += _imports(module)
    return found


def _imports(module: str) -> list[str]:
    """The modules named in the import statements of a module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return []  # a class or function of the parent module
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    names = []
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names
