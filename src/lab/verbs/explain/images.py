"""The explainer of images: which pixels drove a prediction, by three methods of captum.

A method takes a net, (B, C, H, W) normalised images and the (B,) classes to explain. It returns (B, H, W): the
contribution of each pixel to the logit of the class, compared with a pixel of value 0, the mean of the training split.
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
from lab.verbs.explain.overlay import Example, figure, overlay
from lab.verbs.explain.scores import NUM_POINTS, Method

NO_FEATURE_MAP = "the net has no convolution that outputs more than one pixel"


def integrated_gradients(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from the mean image; their sum is the change of the logit."""
    return IntegratedGradients(net).attribute(image, target=target, n_steps=NUM_POINTS).sum(1)


def gradcam(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017): the last feature map, weighted by the mean gradient per channel, after ReLU.

    Raises:
        ValueError: the net has no feature map.
    """
    layer = feature_map(net, image)
    if layer is None:
        raise ValueError(NO_FEATURE_MAP)
    coarse = LayerGradCam(net, layer).attribute(image, target=target, relu_attributions=True)
    return LayerAttribution.interpolate(coarse, image.shape[2:], "bilinear")[:, 0].detach()


def occlusion(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Occlusion (Zeiler & Fergus 2014): the drop of the logit when a square is replaced by the mean."""
    side = max(1, image.shape[-1] // 8)
    window, step = (image.shape[1], side, side), (image.shape[1], -(-side // 2), -(-side // 2))
    with torch.no_grad():
        drop = Occlusion(net).attribute(image, window, step, target=target, perturbations_per_eval=NUM_POINTS)
    return drop[:, 0]  # all channels are equal, since the square covers all of them


def over_flip(method: Method) -> Method:
    """A method that averages over the image and its mirror image if the net is a `TestTimeFlip`, as the net does."""

    def explain(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        if not isinstance(net, TestTimeFlip):
            return method(net, image, target)
        return (explain(net.net, image, target) + explain(net.net, image.flip(-1), target).flip(-1)) / 2

    return explain


METHODS: dict[str, Method] = {
    "integrated_gradients": over_flip(integrated_gradients),
    "gradcam": over_flip(gradcam),
    "occlusion": over_flip(occlusion),
}


def feature_map(net: nn.Module, image: Tensor) -> nn.Module | None:
    """The module that outputs the last feature map; None if no convolution outputs more than one pixel.

    It is the last module (a norm, an activation, a sum) whose output has the size of the last convolution's output.
    """
    outputs: list[tuple[nn.Module, torch.Size]] = []  # in the order in which the modules finish

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            outputs.append((module, output.shape[2:]))

    hooks = [module.register_forward_hook(record) for module in net.modules()]
    try:
        with torch.no_grad():
            net(image[:1])
    finally:
        for hook in hooks:
            hook.remove()
    sizes = [size for module, size in outputs if isinstance(module, nn.Conv2d)]
    return [module for module, size in outputs if size == sizes[-1]][-1] if sizes else None


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
            return {"gradcam": NO_FEATURE_MAP}
        return {}

    def html(self, item: np.ndarray, attribution: Tensor) -> str:
        """A (C, H, W) image, coloured by its (H, W) attribution."""
        pixels = 255 * overlay(torch.from_numpy(item), attribution)
        return picture(pixels.round().astype(np.uint8), "which pixels speak for and against the prediction")

    def draw(self, group: Group, maps: Mapping[str, Sequence[Tensor]], choices: Sequence[str], folder: Path) -> Path:
        """Draw a PNG file, and the same image in TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and lab serve does not need it

        examples = []
        for i, item in enumerate(group.items):
            prediction, share = choices[int(group.target[i])], f"{100 * group.probability[i]:.1f} %"
            example = Example(torch.from_numpy(item), [values[i] for values in maps.values()], prediction, share)
            if group.label is None:
                example.details += f"\n{Path(group.samples[i]).name}"
            elif group.label[i] != group.target[i]:
                example.details += f"\nbut is {choices[int(group.label[i])]}"
            examples.append(example)
        path = folder / f"{group.name}.png"
        columns = [name.replace("_", "\n").replace("gradcam", "Grad-CAM") for name in maps]
        save(figure(group.title, columns, examples), path)
        with SummaryWriter(str(folder.parent)) as writer:
            writer.add_image(
                f"{folder.name}/{group.name}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC"
            )
        return path
