"""Attributions of samples, and scores that tell how far they can be trusted. They work for every type of input.

A method takes a net, a batch of inputs as the net expects them, and the (B,) classes to explain. It returns the
contribution of each position of the input to the logit of the class, (B, …).
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm import tqdm

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
Samples = Sequence[tuple[Tensor, Tensor]]  # (1, …) inputs, each with the (1,) class to explain

NUM_POINTS = 64  # points on the path of integrated gradients, and inputs in a batch
NUM_SHUFFLED = 3  # shuffled nets in the sanity check
NUM_SHARES = 20  # steps in which positions are deleted or inserted


def attribute(method: Method, net: nn.Module, samples: Samples, title: str = "") -> list[Tensor]:
    """The attribution of each sample by a method. Samples are processed one by one, to limit the memory."""
    return [method(net, *sample).detach() for sample in tqdm(samples, title, leave=False, disable=None)]


def sanity(
    method: Method, net: nn.Module, samples: Samples, attributions: Sequence[Tensor], seed: int
) -> dict[str, float]:
    """The sanity check of Adebayo et al. (2018): the mean rank correlation with attributions for shuffled nets.

    A shuffled net has the values of each parameter in random order. If the correlation is near 1, the attribution does
    not depend on what the net has learned. `absolute` compares absolute values: a method may mark the same positions
    for every net, with random signs.
    """
    generator = torch.Generator().manual_seed(seed)
    correlations = []
    for _ in range(NUM_SHUFFLED):
        of_shuffled = attribute(method, shuffled(net, generator), samples, "sanity check")
        for a, b in zip(attributions, of_shuffled, strict=True):
            pairs = (a, b), (a.abs(), b.abs())
            correlations.append(torch.stack([rank_correlation(*pair).mean() for pair in pairs]))
    signed, absolute = torch.stack(correlations).mean(0).tolist()
    return {"signed": signed, "absolute": absolute}


def shuffled(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of a net with the values of each parameter in random order, which keeps their scale."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.flatten()[order].view_as(p))
    return net


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of (B, …) and (B, …): (B,); 0 where one of them is constant."""
    ranks = torch.stack([torch.from_numpy(rankdata(x.flatten(1).cpu().numpy(), axis=1)) for x in (a, b)])
    of_a, of_b = ranks - ranks.mean(-1, keepdim=True)
    return torch.cosine_similarity(of_a, of_b, dim=1)


@torch.no_grad()
def deletion_insertion(
    score: Callable[[Tensor], Tensor], sample: tuple[Tensor, Tensor], attribution: Tensor, blank: float
) -> tuple[float, float]:
    """Deletion and insertion (Petsiuk et al. 2018): positions are deleted or inserted, the most important first.

    Args:
        score: inputs -> (B, num_classes) probabilities.
        sample: an input and its class.
        attribution: of each position; channels share a number.
        blank: the value of a deleted position.

    Returns:
        The areas under the curves of the class's probability: for deletion low is good, for insertion high is good.
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
    methods: dict[str, Method],
    net: nn.Module,
    probability: Callable[[Tensor], Tensor],
    samples: Samples,
    blank: float,
    seed: int,
) -> tuple[dict[str, list[Tensor]], dict[str, Any]]:
    """Compute the attributions of each method and its scores: the sanity check, deletion and insertion.

    Args:
        methods: the methods, by name.
        net: the function that is explained; it returns logits.
        probability: (B, num_classes) logits -> (B, num_classes) probabilities.
        samples: the inputs to explain.
        blank: the value of a deleted position.
        seed: for the shuffled weights, and for the random attribution with which the methods are compared.

    Returns:
        The attributions by method, and the report.
    """
    maps: dict[str, list[Tensor]] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        maps[name] = attribute(method, net, samples, name)
        scores[name] = sanity(method, net, samples, maps[name], seed)
    generator = torch.Generator().manual_seed(seed)
    chance = [torch.rand(x.shape, generator=generator).to(x.device) for x in next(iter(maps.values()))]
    for name, values in (maps | {"random": chance}).items():
        areas = [
            deletion_insertion(lambda x: probability(net(x)), sample, value, blank)
            for sample, value in zip(samples, values, strict=True)
        ]
        means = torch.tensor(areas).mean(0).tolist()
        scores[name] = scores.get(name, {}) | dict(zip(("deletion", "insertion"), means, strict=True))
    return maps, {"methods": scores, "num_samples": len(samples), "num_shuffled_nets": NUM_SHUFFLED, "seed": seed}
