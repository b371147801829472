"""From the candidates of a detection net to its boxes. Shapes are fixed, so that it can be exported."""

import torch
from torch import Tensor

from lab.nets.assignment import pair_iou

NUM_CANDIDATES = 3  # for each box that is returned
ROUNDS = 16


def select(boxes: Tensor, logits: Tensor, side: int, max_boxes: int, max_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes of each picture without near duplicates.

    Args:
        boxes: (B, A, 4) boxes of the candidates.
        logits: (B, A, K) logits.
        side: of the picture, in pixels; boxes end there.
        max_boxes: boxes of each picture.
        max_iou: of two boxes of the same class that overlap more, the one with the lower score is left out.

    Returns:
        (B, max_boxes, 4) boxes, (B, max_boxes) falling scores, and (B, max_boxes) classes. Padding is 0, 0, -1.
    """
    score = logits.sigmoid().flatten(1)
    score, candidate = score.topk(min(NUM_CANDIDATES * max_boxes, score.shape[1]), 1)
    kind, cell = candidate % logits.shape[-1], candidate // logits.shape[-1]
    found = boxes.gather(1, cell[..., None].expand(-1, -1, 4)).clamp(0, side)
    has_area = (found[..., 2:] > found[..., :2]).all(-1)
    score = score * (suppress(found, kind, max_iou) & has_area)
    score, order = score.topk(min(max_boxes, score.shape[1]), 1)
    is_box = score > 0
    found = found.gather(1, order[..., None].expand(-1, -1, 4)) * is_box[..., None]
    return found, score, kind.gather(1, order).where(is_box, -1)


def suppress(boxes: Tensor, kind: Tensor, max_iou: float, rounds: int = ROUNDS) -> Tensor:
    """(B, N, 4) boxes, the best first, and (B, N) classes -> (B, N) bool: greedy non-maximum suppression.

    The result of the greedy algorithm is the only solution of: a box is kept if no kept better box overlaps it. Each
    round applies this rule to all boxes at once. It decides one more link of each chain of boxes that suppress each
    other, so the result is exact for chains of up to `rounds` boxes.
    """
    same = kind[:, :, None] == kind[:, None]
    over = ((pair_iou(boxes, boxes) > max_iou) & same).float().triu(1)
    kept = torch.ones_like(over[:, 0])
    for _ in range(rounds):
        kept = (torch.einsum("bj,bjk->bk", kept, over) < 0.5).float()
    return kept > 0.5
