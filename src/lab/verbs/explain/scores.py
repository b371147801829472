"""Attributions of many samples, and how far they can be trusted: nothing here knows what an input is.

A method takes a net, a batch of inputs as the net gets them, and the (B,) classes to explain; it returns what each
position of an input did for the logit of the class, (B, …).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm import tqdm

from lab.tasks.base import Task

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
Samples = Sequence[tuple[Tensor, Tensor]]  # of each (1, …) the input, and (1,) the class to explain

NUM_POINTS = 64  # on the path of integrated gradients, and inputs of a batch
NUM_SHUFFLED = 3  # nets of the sanity check
NUM_SHARES = 20  # steps in which positions are deleted and inserted


def attribute(method: Method, net: nn.Module, samples: Samples, title: str = "") -> list[Tensor]:
    """A method's answer, one sample after the other, so that memory depends on no more than one."""
    return [method(net, *sample).detach() for sample in tqdm(samples, title, leave=False, disable=None)]


def sanity(
    method: Method, net: nn.Module, samples: Samples, attributions: Sequence[Tensor], seed: int
) -> dict[str, float]:
    """Mean rank correlation of attributions with a method's for nets that know nothing (Adebayo et al. 2018).

    Such a net has the weights of every layer shuffled, tensor by tensor. Near 1 the picture does not depend on the
    model. Absolute values see what signs can hide: the same positions, for and against by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(NUM_SHUFFLED):
        others = attribute(method, shuffled(net, generator), samples, "sanity check")
        for own, other in zip(attributions, others, strict=True):
            pairs = (own, other), (own.abs(), other.abs())
            found.append(torch.stack([rank_correlation(*pair).mean() for pair in pairs]))
    signed, absolute = torch.stack(found).mean(0).tolist()
    return {"signed": signed, "absolute": absolute}


def shuffled(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with the values of each parameter in another order: their scales stay, what was learned is gone."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.flatten()[order].view_as(p))
    return net


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's, of (B, …) and (B, …) -> (B,); 0 where one of them is the same everywhere."""
    ranks = torch.stack([torch.from_numpy(rankdata(x.flatten(1).cpu().numpy(), axis=1)) for x in (a, b)])
    of_a, of_b = ranks - ranks.mean(-1, keepdim=True)
    return torch.cosine_similarity(of_a, of_b, dim=1)


@torch.no_grad()
def deletion_insertion(
    score: Callable[[Tensor], Tensor], sample: tuple[Tensor, Tensor], attribution: Tensor, blank: float
) -> tuple[float, float]:
    """Areas under the class's score while positions, the most important first, go or come (Petsiuk et al. 2018).

    Args:
        score: inputs -> (B, num_classes).
        sample: an input and its class.
        attribution: of each position; an input's channels share one.
        blank: what a position is where it is taken away.

    Returns:
        That of deletion, low where the attribution is right, and that of insertion, high where it is.
    """
    x, target = sample
    rank = attribution.flatten().argsort(descending=True, stable=True).argsort().view(attribution.shape)
    share = torch.arange(NUM_SHARES + 1, device=x.device) / NUM_SHARES
    first = rank < rank.numel() * share.view(-1, *[1] * (rank.ndim - 1))  # (steps, …)
    first = first.view(len(share), *[1] * (x.ndim - rank.ndim), *rank.shape[1:])
    curves = [score(x.masked_fill(mask, blank))[:, target[0]] for mask in (first, ~first)]
    deletion, insertion = torch.trapezoid(torch.stack(curves, 1), dx=1 / NUM_SHARES, dim=0).tolist()
    return deletion, insertion


def explain(
    methods: dict[str, Method], task: Task, samples: Samples, entry: str, blank: float, seed: int
) -> tuple[dict[str, list[Tensor]], dict[str, Any]]:
    """The attributions of each method, and a report: its sanity check, its areas of deletion and insertion.

    Args:
        methods: by name.
        task: whose net is explained.
        samples: to explain.
        entry: of a batch, where the inputs stand.
        blank: what a position is where it is taken away.
        seed: of the shuffled weights, and of the random ranking that the methods are compared with.
    """
    maps: dict[str, list[Tensor]] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        maps[name] = attribute(method, task.net, samples, name)
        scores[name] = sanity(method, task.net, samples, maps[name], seed)
    generator = torch.Generator().manual_seed(seed)
    chance = [torch.rand(x.shape, generator=generator).to(x.device) for x in next(iter(maps.values()))]
    for name, values in (maps | {"random": chance}).items():
        areas = [
            deletion_insertion(lambda x: task({entry: x}).softmax(-1), sample, value, blank)
            for sample, value in zip(samples, values, strict=True)
        ]
        means = torch.tensor(areas).mean(0).tolist()
        scores[name] = scores.get(name, {}) | dict(zip(("deletion", "insertion"), means, strict=True))
    return maps, {"methods": scores, "num_samples": len(samples), "num_shuffled_nets": NUM_SHUFFLED, "seed": seed}
