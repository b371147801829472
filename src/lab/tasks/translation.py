from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from lab.data.base import Samples
from lab.errors import UserError
from lab.features.base import Feature
from lab.features.text import Text
from lab.features.tokens import PAD, START, Tokens
from lab.tasks.base import Deferred, Task
from lab.tasks.search import beam_search, greedy
from lab.types import Fraction

NUM_SHOWN = 40  # translations of a split
NUM_MAPS = 6  # of them, with what they took from where


class Translation(Task):
    """Cross-entropy of each target token, given those before it (teacher forcing).

    Reports the perplexity and the share of tokens that were the likeliest (`acc`); of translations, greedy ones in
    validation and a beam search's at test, sacreBLEU's BLEU and chrF, 0 to 100.

    Args:
        target_max_length: tokens of the longest translation.
        label_smoothing: share of a token's probability spread over all of them (Szegedy et al. 2016), in training.
        beam_size: beginnings that the search at test goes on with.
        length_penalty: the larger, the longer its translations (Wu et al. 2016).
    """

    def __init__(
        self,
        text_tokenizer: str,
        target_tokenizer: str,
        target_max_length: PositiveInt,
        label_smoothing: Fraction = 0.1,
        beam_size: PositiveInt = 4,
        length_penalty: NonNegativeFloat = 0.6,
        **kwargs: Any,
    ) -> None:
        if not find_spec("sacrebleu"):
            raise UserError("error: task: it takes sacrebleu: pip install 'lab[text]'")
        self.tokens, self.target_tokens = Tokens(text_tokenizer), Tokens(target_tokenizer)
        of_tokens: dict[str, Any] = {"perplexity": Perplexity(), "acc": Accuracy()}
        everything = of_tokens | {"bleu": BLEU(self.target_tokens), "chrf": CHRF(self.target_tokens)}
        metrics = {"train": of_tokens, "val": everything, "test": everything}
        super().__init__(metrics={stage: MetricCollection(m).clone() for stage, m in metrics.items()}, **kwargs)
        self.max_length, self.label_smoothing = target_max_length, label_smoothing
        self.beam_size, self.length_penalty = beam_size, length_penalty

    def size(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["target"][:, 1:] != PAD).sum()

    def step(self, batch: dict[str, Tensor], metrics: Deferred) -> Tensor:
        target = batch["target"][:, 1:]
        logits = self(batch | {"target": batch["target"][:, :-1]})
        there = target != PAD
        flat, which = logits.flatten(0, 1), target.flatten()
        nll = F.cross_entropy(flat.detach(), which, reduction="none", ignore_index=PAD).view_as(target).sum(1)
        right = ((logits.detach().argmax(-1) == target) & there).sum(1)
        seen: tuple[Tensor, ...] = (nll, right, there.sum(1))
        if not self.training:
            translation = self.translate(batch["token"], self.beam_size if metrics is self.deferred["test"] else 1)
            reference = batch["reference"]
            seen += (F.pad(reference, (0, -reference.shape[1] % 4096)), translation)  # to be put together
        metrics.update(*seen)
        smoothing = self.label_smoothing if self.training else 0.0
        return F.cross_entropy(flat, which, ignore_index=PAD, label_smoothing=smoothing)

    def translate(self, token: Tensor, beam_size: int) -> Tensor:
        """(B, S) token -> (B, max_length) target, up to `</s>`, then padding."""
        if beam_size == 1:
            return greedy(self.net, token, self.max_length)
        return beam_search(self.net, token, self.max_length, beam_size, self.length_penalty)

    def predictions(  # type: ignore[override]
        self, nll: Tensor, right: Tensor, num: Tensor, reference: Tensor, translation: Tensor
    ) -> dict[str, Sequence[Any]]:
        text = self.target_tokens.decode(translation.tolist())
        return {"target": _written(reference), "translation": text, "target_perplexity": (nll / num).exp().tolist()}

    def figures(  # type: ignore[override]
        self, samples: Samples, nll: Tensor, right: Tensor, num: Tensor, reference: Tensor, translation: Tensor
    ) -> dict[str, Any]:
        from lab.figures.attention import attention  # matplotlib takes half a second
        from lab.figures.table import table

        shown = torch.linspace(0, len(nll) - 1, min(len(nll), NUM_SHOWN)).long()  # of all parts of the split
        batch, translation = samples[shown], translation[shown]
        texts = {
            "source": self.tokens.decode(batch["token"].tolist()),
            "target": _written(reference[shown]),
            "translation": self.target_tokens.decode(translation.tolist()),
        }
        rows = zip(*texts.values(), strict=True)
        token, translation = batch["token"][:NUM_MAPS], translation[:NUM_MAPS]
        weights = list(map(self._attention, token, translation))
        names = [_names(self.tokens, token), _names(self.target_tokens, translation)]
        return {
            "translations": table([*texts], rows, "translations, from all parts of the split"),
            "attention": attention(weights, *names),
        }

    @torch.no_grad()
    def _attention(self, token: Tensor, translation: Tensor) -> Tensor:
        """(T, S) weights, of one source and its translation, both without padding."""
        before = F.pad(translation[translation != PAD], (1, -1), value=START)
        inputs = (token[token != PAD], before)
        (weights,) = self.net.attention(  # type: ignore[operator]
            *(ids.unsqueeze(0).to(self.device) for ids in inputs)
        )
        return weights.float().cpu()

    @property
    def inputs(self) -> list[str]:
        return ["token"]

    @property
    def outputs(self) -> dict[str, Feature]:
        tokenizer = self.target_tokens.tokenizer.to_str()
        return {"translation": Text(tokenizer, self.max_length, entry="translation")}

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """`translation` (B, max_length)."""
        return {"translation": self.translate(batch["token"], self.beam_size)}


def _written(reference: Tensor) -> list[str]:
    """(N, R) code points as texts."""
    return ["".join(chr(i) for i in row if i) for row in reference.tolist()]


def _names(tokens: Tokens, ids: Tensor) -> list[list[str]]:
    """Of the tokens of (N, T), without padding."""
    return [[str(tokens.tokenizer.id_to_token(i)) for i in row if i != PAD] for row in ids.tolist()]


class Perplexity(Metric):
    """The exponential of the mean negative log-likelihood of a token.

    It is summed in whole millionths of a nat: unlike floats, these give the same sum in whatever order they come, so
    that a run that was stopped reports what it would have.
    """

    nll: Tensor
    num: Tensor
    not_finite: Tensor  # 0, or NaN

    def __init__(self) -> None:
        super().__init__()
        for name in ("nll", "num"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("not_finite", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, nll: Tensor, right: Tensor, num: Tensor, *_: Tensor) -> None:
        """Take in what (B,) samples have: a sum over their tokens, how many of these were the likeliest, how many."""
        self.not_finite += (0 * nll).sum()
        self.nll += (nll.float().clamp(max=1e12) * 1e6).round().long().sum()
        self.num += num.sum()

    def compute(self) -> Tensor:
        return (self.nll / self.num / 1e6).exp() + self.not_finite


class Accuracy(Metric):
    """The share of tokens that were the likeliest."""

    right: Tensor
    num: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "num"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Tensor, right: Tensor, num: Tensor, *_: Tensor) -> None:
        self.right += right.sum()
        self.num += num.sum()

    def compute(self) -> Tensor:
        return self.right / self.num


class Texts(Metric):
    """Keeps references, as code points, and translations, as tokens; a subclass compares the texts."""

    reference: list[Tensor]
    translation: list[Tensor]

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens
        for name in ("reference", "translation"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, nll: Tensor, right: Tensor, num: Tensor, reference: Tensor, translation: Tensor) -> None:
        self.reference.append(reference)
        self.translation.append(translation)

    def texts(self) -> tuple[list[str], list[str]]:
        """The references, and the translations."""
        return _written(dim_zero_cat(self.reference)), self.tokens.decode(dim_zero_cat(self.translation).tolist())


class BLEU(Texts):
    """Papineni et al. (2002), as Post (2018) wrote it down: BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp."""

    def compute(self) -> Tensor:
        from sacrebleu import corpus_bleu

        reference, translation = self.texts()
        return torch.tensor(corpus_bleu(translation, [reference]).score, device=self.device)


class CHRF(Texts):
    """Popović (2015): chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no."""

    def compute(self) -> Tensor:
        from sacrebleu import corpus_chrf

        reference, translation = self.texts()
        return torch.tensor(corpus_chrf(translation, [reference]).score, device=self.device)
