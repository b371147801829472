from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torchmetrics import MetricCollection

from lab.data.batches import Batch
from lab.data.views import ShownSamples
from lab.engine.constraints import Fraction
from lab.engine.errors import UserError
from lab.features.base import Feature
from lab.features.text import Text
from lab.features.tokens import PAD, START, TextTokenizer
from lab.metrics.translation import BLEU, CHRF, Accuracy, Perplexity
from lab.tasks.base import Stage, Step, Task
from lab.tasks.beam_search import beam_search, greedy

NUM_SHOWN = 40  # translations of a split
NUM_MAPS = 6  # attention maps of a split


class Translation(Task):
    """Cross-entropy of each target token given the tokens before it (teacher forcing).

    Reports the perplexity and the token accuracy (`acc`). For translations, it reports the BLEU and chrF of sacreBLEU,
    0 to 100. Validation translates greedily, the test with a beam search.

    Args:
        text_tokenizer: the JSON of the source tokenizer.
        target_tokenizer: the JSON of the target tokenizer.
        target_max_length: the largest number of tokens in a translation.
        label_smoothing: share of the token's probability spread over all tokens in training (Szegedy et al. 2016).
        beam_size: number of prefixes in the beam search.
        length_penalty: a larger penalty gives longer translations (Wu et al. 2016).
    """

    keeps: ClassVar = ("translation",)

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
            raise UserError("error: task: it needs sacrebleu: pip install 'lab-template[text]'")
        self.tokens, self.target_tokens = TextTokenizer(text_tokenizer), TextTokenizer(target_tokenizer)
        of_tokens: dict[str, Any] = {"perplexity": Perplexity(), "acc": Accuracy()}
        everything = of_tokens | {"bleu": BLEU(self.target_tokens), "chrf": CHRF(self.target_tokens)}
        metrics = {"train": of_tokens, "val": everything, "test": everything}
        super().__init__(metrics={stage: MetricCollection(m).clone() for stage, m in metrics.items()}, **kwargs)
        self.max_length, self.label_smoothing = target_max_length, label_smoothing
        self.beam_size, self.length_penalty = beam_size, length_penalty

    def size(self, batch: Batch) -> Tensor:
        return (batch["target"][:, 1:] != PAD).sum()

    def step(self, batch: Batch, stage: Stage) -> Step:
        target = batch["target"][:, 1:]
        logits = self(batch | {"target": batch["target"][:, :-1]})
        is_token = target != PAD
        flat, label = logits.flatten(0, 1), target.flatten()
        nll = F.cross_entropy(flat.detach(), label, reduction="none", ignore_index=PAD).view_as(target).sum(1)
        right = ((logits.detach().argmax(-1) == target) & is_token).sum(1)
        outputs = {"nll": nll, "right": right, "num_tokens": is_token.sum(1)}
        if stage != "train":
            translation = self.translate(batch["token"], self.beam_size if stage == "test" else 1)
            outputs |= {"reference": batch["reference"], "translation": translation}
        smoothing = self.label_smoothing if stage == "train" else 0.0
        return Step(F.cross_entropy(flat, label, ignore_index=PAD, label_smoothing=smoothing), outputs=outputs)

    def translate(self, token: Tensor, beam_size: int) -> Tensor:
        """(B, S) token -> (B, max_length) target, up to `</s>`, then padding."""
        if beam_size == 1:
            return greedy(self.net, token, self.max_length)
        return beam_search(self.net, token, self.max_length, beam_size, self.length_penalty)

    def predictions(self, batch: Batch, outputs: dict[str, Tensor]) -> dict[str, Sequence[Any]]:
        return {
            "target": _written(outputs["reference"]),
            "translation": self.target_tokens.decode(outputs["translation"].tolist()),
            "target_perplexity": (outputs["nll"] / outputs["num_tokens"]).exp().tolist(),
        }

    def figures(self, samples: ShownSamples, outputs: dict[str, Tensor]) -> dict[str, Any]:
        from lab.engine.markdown import table
        from lab.figures.attention import attention  # importing matplotlib takes half a second

        translation = outputs["translation"]
        num = len(translation)
        shown = torch.linspace(0, num - 1, min(num, NUM_SHOWN)).long()  # from the whole split
        batch, translation = samples[shown], translation[shown]
        texts = {
            "source": self.tokens.decode(batch["token"].tolist()),
            "target": _written(batch["reference"]),
            "translation": self.target_tokens.decode(translation.tolist()),
        }
        rows = zip(*texts.values(), strict=True)
        token, translation = batch["token"][:NUM_MAPS], translation[:NUM_MAPS]
        weights = list(map(self._attention, token, translation))
        names = [_names(self.tokens, token), _names(self.target_tokens, translation)]
        return {
            "translations": table([*texts], rows, "translations, evenly spaced in the split"),
            "attention": attention(weights, *names),
        }

    @torch.no_grad()
    def _attention(self, token: Tensor, translation: Tensor) -> Tensor:
        """(S,) token, (T,) translation -> (T, S) attention weights, without padding."""
        before = F.pad(translation[translation != PAD], (1, -1), value=START)
        inputs = (token[token != PAD], before)
        net: Any = self.net
        (weights,) = net.attention(*(ids.unsqueeze(0).to(self.device) for ids in inputs))
        return weights.float().cpu()

    @property
    def input_entries(self) -> list[str]:
        return ["token"]

    @property
    def outputs(self) -> dict[str, Feature]:
        tokenizer = self.target_tokens.tokenizer.to_str()
        return {"translation": Text(tokenizer, self.max_length, entry="translation")}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """`translation` (B, max_length)."""
        return {"translation": self.translate(batch["token"], self.beam_size)}


def _written(reference: Tensor) -> list[str]:
    """(N, R) code points -> N texts."""
    return ["".join(chr(i) for i in row if i) for row in reference.tolist()]


def _names(tokens: TextTokenizer, ids: Tensor) -> list[list[str]]:
    """(N, T) token ids -> the names of the tokens, without padding."""
    return [[str(tokens.tokenizer.id_to_token(i)) for i in row if i != PAD] for row in ids.tolist()]
