"""Which candidate of a detection net answers for which object, and the loss of the candidates.

The assignment is that of TOOD (Feng et al. 2021, https://arxiv.org/abs/2108.07755, section 3.2): a candidate fits an
object if its score for the class is high and its box overlaps the object. All computations are over whole batches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

TOP = 9  # candidates for each object
OVERLAP_POWER = 6  # the fit is score^0.5 · IoU^6
FAINT = 1e-9  # added to each fit: at first most are 0


def losses(boxes: Tensor, logits: Tensor, centre: Tensor, true_boxes: Tensor, true_label: Tensor) -> dict[str, Tensor]:
    """The losses of classes and boxes, each divided by the number of pictures and objects.

    A picture counts as one term, so that the loss of a batch without objects is finite.

    Args:
        boxes: (B, A, 4) boxes of the candidates.
        logits: (B, A, K) logits of the candidates.
        centre: (A, 3), as `lab.nets.detector.centres`.
        true_boxes: (B, N, 4) boxes of the objects.
        true_label: (B, N) classes of the objects; -1 is padding.
    """
    index, weight = assign(boxes.detach(), logits.detach().sigmoid(), centre, true_boxes, true_label)
    kind = true_label.gather(1, index).clamp(min=0)
    target = F.one_hot(kind, logits.shape[-1]) * weight[..., None]
    num = (true_label >= 0).sum() + len(boxes)
    mine = true_boxes.gather(1, index[..., None].expand(-1, -1, 4))
    taken = weight > 0
    overlap = generalized_box_iou_loss(boxes[taken], mine[taken]) * weight[taken]
    return {
        "class": F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / num,
        "box": overlap.sum() / num,
    }


@torch.no_grad()
def assign(
    boxes: Tensor, score: Tensor, centre: Tensor, true_boxes: Tensor, true_label: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, A) the object of each candidate, and (B, A) its weight in [0, 1]; 0: the candidate is background.

    The best candidate of an object has its IoU as weight. A candidate that fits several objects goes to the one that it
    overlaps most. An object that contains no centre of a cell gets the nearest cell.
    """
    x, stride = centre[:, :2], centre[:, 2]
    far = (x - (true_boxes[..., None, :2] + true_boxes[..., None, 2:]) / 2).abs().amax(-1)  # (B, N, A)
    inside = ((x > true_boxes[..., None, :2]) & (x < true_boxes[..., None, 2:])).all(-1) | (far <= stride / 2)
    overlap = pair_iou(true_boxes, boxes)
    of_class = score.mT.gather(1, true_label.clamp(min=0)[..., None].expand_as(overlap))
    fit = of_class.sqrt() * overlap**OVERLAP_POWER + FAINT - far * (FAINT * 1e-4)  # of equal fits, the nearest cell
    fit = fit * (inside & (true_label >= 0)[..., None])
    least = fit.topk(min(TOP, fit.shape[-1]), -1).values[..., -1:]
    taken = (fit >= least) & (fit > 0)
    fit = fit * taken
    scale = (overlap * taken).amax(-1, keepdim=True) / fit.amax(-1, keepdim=True).clamp(min=FAINT / 2)
    best, index = (overlap + FAINT).masked_fill(~taken, -1).max(1)
    weight = (fit * scale).gather(1, index[:, None])[:, 0].clamp(0, 1) * (best >= 0)
    return index, weight


def pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, 4) and (B, M, 4) boxes -> (B, N, M) intersection over union."""
    a, b = a[:, :, None], b[:, None]
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    both = size[..., 0] * size[..., 1]
    areas = (((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1])).clamp(min=0) for x in (a, b))
    return both / (sum(areas) - both).clamp(min=1e-6)
