"""Metrics of translations. Their arguments are outputs of `Translation.step`.

Sums are integers. Unlike sums of floats, they do not depend on the order: a resumed run reports the same values as an
uninterrupted one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lab.features.tokens import TextTokenizer

NATS = 1e6  # the unit of a sum of log-likelihoods is a millionth of a nat


class Perplexity(Metric):
    """The exponential of the mean negative log-likelihood of a token."""

    nll: Tensor
    num: Tensor
    not_finite: Tensor  # 0, or NaN

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "num"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("not_finite", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, nll: Tensor, num_tokens: Tensor) -> None:
        """(B,) negative log-likelihood, summed over the tokens of each sample, and (B,) number of tokens."""
        self.not_finite += (0 * nll).sum()
        self.nll += (nll.float().clamp(max=1e12) * NATS).round().long().sum()
        self.num += num_tokens.sum()

    def compute(self) -> Tensor:
        return (self.nll / self.num / NATS).exp() + self.not_finite


class Accuracy(Metric):
    """The share of target tokens that had the highest probability."""

    right: Tensor
    num: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "num"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: Tensor, num_tokens: Tensor) -> None:
        """(B,) target tokens that had the highest probability, and (B,) number of tokens, of each sample."""
        self.right += right.sum()
        self.num += num_tokens.sum()

    def compute(self) -> Tensor:
        return self.right / self.num


class TextPairs(Metric):
    """Keeps references and translations of any length, on the CPU. A subclass compares the texts."""

    reference: list[Tensor]
    translation: list[Tensor]

    def __init__(self, tokens: TextTokenizer) -> None:
        super().__init__()
        self.tokens = tokens
        for name in ("reference", "translation"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, reference: Tensor, translation: Tensor) -> None:
        """(B, R) code points and (B, T) tokens, padded with zeros."""
        self.reference.append(without_padding(reference).int().cpu())
        self.translation.append(without_padding(translation).int().cpu())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Gather the texts of all processes. NCCL needs them on the GPU."""
        for name in ("reference", "translation"):
            setattr(self, name, [numbers.to(self.device) for numbers in getattr(self, name)])
        super()._sync_dist(*args, **kwargs)

    def texts(self) -> tuple[list[str], list[str]]:
        """The references and the translations."""
        references = ["".join(map(chr, row)) for row in rows(dim_zero_cat(self.reference))]
        return references, self.tokens.decode(rows(dim_zero_cat(self.translation)))


class BLEU(TextPairs):
    """BLEU (Papineni et al. 2002), with the signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp (Post 2018)."""

    def compute(self) -> Tensor:
        from sacrebleu import corpus_bleu

        reference, translation = self.texts()
        return torch.tensor(corpus_bleu(translation, [reference]).score, device=self.device)


class CHRF(TextPairs):
    """chrF (Popović 2015), with the signature chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no."""

    def compute(self) -> Tensor:
        from sacrebleu import corpus_chrf

        reference, translation = self.texts()
        return torch.tensor(corpus_chrf(translation, [reference]).score, device=self.device)


def without_padding(ids: Tensor) -> Tensor:
    """(B, T) numbers, padded with zeros -> (N,) the numbers of all rows without padding, with a zero after each row."""
    ended = F.pad(ids, (0, 1))
    kept = ended != 0
    kept[:, -1] = True
    return ended[kept]


def rows(ids: Tensor) -> list[list[int]]:
    """The rows in a result of `without_padding`."""
    found: list[list[int]] = [[]]
    for number in ids.tolist():
        if number:
            found[-1].append(number)
        else:
            found.append([])
    return found[:-1]
