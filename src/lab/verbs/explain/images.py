"""Which pixels an answer came from, by three methods of captum, and pictures of them.

A method takes a net, (B, C, H, W) normalised images and the (B,) classes to explain, and returns (B, H, W): what each
pixel did for the logit of the class. What a pixel is compared with is 0, the mean of the training split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from PIL import Image
from torch import Tensor, nn

from lab.features.image import Image as Picture
from lab.features.image import picture
from lab.figures.page import save
from lab.nets.flip import TestTimeFlip
from lab.verbs.explain.base import Explainer
from lab.verbs.explain.group import Group
from lab.verbs.explain.overlay import Row, figure, overlay
from lab.verbs.explain.scores import NUM_POINTS, Method


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


def of_both_sides(method: Method) -> Method:
    """The same, and for a `TestTimeFlip` the mean over the image and its mirror image."""

    def explain(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        if not isinstance(net, TestTimeFlip):
            return method(net, image, target)
        return (explain(net.net, image, target) + explain(net.net, image.flip(-1), target).flip(-1)) / 2

    return explain


METHODS: dict[str, Method] = {
    "integrated_gradients": of_both_sides(integrated_gradients),
    "gradcam": of_both_sides(gradcam),
    "occlusion": of_both_sides(occlusion),
}


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


class ImageExplainer(Explainer):
    feature: Picture

    def methods(self) -> dict[str, Method]:
        return METHODS

    @property
    def blank(self) -> float:
        """The mean of the training split."""
        return 0.0

    def left_out(self, net: nn.Module, x: Tensor) -> dict[str, str]:
        if feature_map(net, x) is None:
            return {"gradcam": "the net has no convolution that leaves more than a pixel"}
        return {}

    def html(self, item: np.ndarray, attribution: Tensor) -> str:
        """A (C, H, W) image under its (H, W) attribution."""
        pixels = 255 * overlay(torch.from_numpy(item), attribution)
        return picture(pixels.round().astype(np.uint8), "which pixels speak for and against the answer")

    def draw(self, group: Group, maps: Mapping[str, Sequence[Tensor]], choices: Sequence[str], folder: Path) -> Path:
        """A PNG, and the same in TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter  # a second, which lab serve need not wait for

        rows = []
        for i, item in enumerate(group.items):
            said, share = choices[int(group.target[i])], f"{100 * group.probability[i]:.1f} %"
            row = Row(torch.from_numpy(item), [values[i] for values in maps.values()], said, share)
            if group.label is None:
                row.more += f"\n{Path(group.samples[i]).name}"
            elif group.label[i] != group.target[i]:
                row.more += f"\nbut is {choices[int(group.label[i])]}"
            rows.append(row)
        path = folder / f"{group.name}.png"
        columns = [name.replace("_", "\n").replace("gradcam", "Grad-CAM") for name in maps]
        save(figure(group.title, columns, rows), path)
        with SummaryWriter(str(folder.parent)) as writer:
            writer.add_image(
                f"{folder.name}/{group.name}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC"
            )
        return path
