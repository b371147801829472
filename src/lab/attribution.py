"""Which pixels an answer came from, by three methods of captum; and how far such a picture can be trusted.

A method takes a net, (B, C, H, W) normalised images and the (B,) classes to explain, and returns (B, H, W): what each
pixel did for the logit of the class. What a pixel is compared with is 0, the mean of the training split.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from scipy.stats import rankdata
from torch import Tensor, nn
from tqdm import tqdm

from lab.tasks.classification import Classification

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]

NUM_POINTS = 64  # on the path of integrated gradients, and images of a batch
NUM_SHUFFLED = 3  # nets of the sanity check
NUM_SHARES = 20  # steps in which pixels are deleted and inserted


def integrated_gradients(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Gradients along the way from the mean to the image (Sundararajan et al. 2017); they sum to what it changes."""
    return IntegratedGradients(net).attribute(image, target=target, n_steps=NUM_POINTS).sum(1)


def gradcam(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """The last feature map, each channel weighted by its mean gradient, where positive (Selvaraju et al. 2017).

    Raises:
        ValueError: there is no feature map.
    """
    layer = feature_map(net, image)
    if layer is None:
        raise ValueError("the net has no convolution that leaves more than a pixel")
    coarse = LayerGradCam(net, layer).attribute(image, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(coarse, image.shape[2:], "bilinear")[:, 0].detach()


def occlusion(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """What a square of mean colour, an eighth of the image wide, takes from the logit (Zeiler & Fergus 2014)."""
    side = max(1, image.shape[-1] // 8)
    window, step = (image.shape[1], side, side), (image.shape[1], -(-side // 2), -(-side // 2))
    with torch.no_grad():
        found = Occlusion(net).attribute(image, window, step, target=target, perturbations_per_eval=NUM_POINTS)
    return found[:, 0]  # the same in each channel: the square covers all


METHODS: dict[str, Method] = {
    "integrated_gradients": integrated_gradients,
    "gradcam": gradcam,
    "occlusion": occlusion,
}


def attribute(method: Method, net: nn.Module, image: Tensor, target: Tensor, title: str = "") -> Tensor:
    """A method's answer, one image after the other, so that memory depends on no more than one."""
    pairs = tqdm(list(zip(image.split(1), target.split(1), strict=True)), title, leave=False, disable=None)
    return torch.cat([method(net, *pair) for pair in pairs])


def feature_map(net: nn.Module, image: Tensor) -> nn.Module | None:
    """The module that ends the last feature map; None where no convolution leaves more than a pixel.

    It is the last one whose output has the size that the last convolution leaves: a norm, an activation, a sum.
    """
    seen: list[tuple[nn.Module, torch.Size]] = []  # in the order in which they end

    def see(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            seen.append((module, output.shape[2:]))

    hooks = [module.register_forward_hook(see) for module in net.modules()]
    try:
        with torch.no_grad():
            net(image[:1])
    finally:
        for hook in hooks:
            hook.remove()
    sizes = [size for module, size in seen if isinstance(module, nn.Conv2d)]
    return [module for module, size in seen if size == sizes[-1]][-1] if sizes else None


def sanity(
    method: Method, net: nn.Module, image: Tensor, target: Tensor, attribution: Tensor, seed: int
) -> dict[str, float]:
    """Mean rank correlation of attributions with a method's for nets that know nothing (Adebayo et al. 2018).

    Such a net has the weights of every layer shuffled, tensor by tensor. Near 1 the picture does not depend on the
    model. Absolute values see what signs can hide: the same pixels, for and against by chance.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(NUM_SHUFFLED):
        other = attribute(method, shuffled(net, generator), image, target, "sanity check")
        pairs = (attribution, other), (attribution.abs(), other.abs())
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
    """Spearman's, of (B, H, W) and (B, H, W) -> (B,); 0 where one of them is the same everywhere."""
    ranks = torch.stack([torch.from_numpy(rankdata(x.flatten(1).cpu().numpy(), axis=1)) for x in (a, b)])
    of_a, of_b = ranks - ranks.mean(-1, keepdim=True)
    return torch.cosine_similarity(of_a, of_b, dim=1)


@torch.no_grad()
def deletion_insertion(
    score: Callable[[Tensor], Tensor], image: Tensor, target: Tensor, attribution: Tensor
) -> tuple[Tensor, Tensor]:
    """Areas under the class's score while pixels, the most important first, go or come (Petsiuk et al. 2018).

    Returns:
        (B,) of deletion, low where the attribution is right, and (B,) of insertion, high where it is.
    """
    rank = attribution.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rank = rank.view(len(image), 1, *image.shape[2:])
    num_pixels = image.shape[2:].numel()
    curves = []
    for step in range(NUM_SHARES + 1):
        first = rank < num_pixels * step / NUM_SHARES
        scores = [score(image.masked_fill(mask, 0.0)).gather(1, target[:, None])[:, 0] for mask in (first, ~first)]
        curves.append(torch.stack(scores))
    deletion, insertion = torch.trapezoid(torch.stack(curves), dx=1 / NUM_SHARES, dim=0)
    return deletion, insertion


def explain(
    methods: dict[str, Method], task: Classification, image: Tensor, target: Tensor, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The attributions of each method, and a report: its sanity check, its areas of deletion and insertion.

    Where a task answers with the mean over an image and its mirror image, so do the methods.
    """
    maps: dict[str, Tensor] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        if task.test_time_flip:
            method = mirrored(method)
        maps[name] = attribute(method, task.net, image, target, name)
        scores[name] = sanity(method, task.net, image, target, maps[name], seed)
    chance = torch.rand(len(image), *image.shape[2:], generator=torch.Generator().manual_seed(seed))
    for name, values in (maps | {"random": chance.to(image.device)}).items():
        areas = deletion_insertion(lambda images: task({"image": images}).softmax(-1), image, target, values)
        means = {part: area.mean().item() for part, area in zip(("deletion", "insertion"), areas, strict=True)}
        scores[name] = scores.get(name, {}) | means
    return maps, {"methods": scores, "num_samples": len(image), "num_shuffled_nets": NUM_SHUFFLED, "seed": seed}


def mirrored(method: Method) -> Method:
    """The same for a net that is asked twice, as it stands and mirrored."""

    def both(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        return (method(net, image, target) + method(net, image.flip(-1), target).flip(-1)) / 2

    return both
