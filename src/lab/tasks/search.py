"""Which target a translation net would write: greedily, or the best that a beam finds."""

import math
from typing import Any

import torch
from torch import Tensor

from lab.data.tokens import END, PAD, START

FIRST_SAID = 3  # below it are <pad>, <unk> and <s>


@torch.no_grad()
def greedy(net: Any, token: Tensor, max_length: int) -> Tensor:
    """(B, S) token -> (B, T) target, at each place the likeliest token; until all have said `</s>`, then padded."""
    state = net.encode(token)
    latest = token.new_full((len(token),), START)
    ended = torch.zeros_like(latest, dtype=torch.bool)
    said: list[Tensor] = []
    while len(said) < max_length and not ended.all():
        logits, new = net.decode(latest, state)
        state |= new
        latest = (logits[:, FIRST_SAID:].argmax(-1) + FIRST_SAID).masked_fill(ended, PAD)
        ended = ended | (latest == END)
        said.append(latest)
    return torch.stack(said, 1)


@torch.no_grad()
def beam_search(net: Any, token: Tensor, max_length: int, beam_size: int, length_penalty: float = 0.6) -> Tensor:
    """The same, of the `beam_size` likeliest beginnings at each place; it ends where so many have said `</s>`.

    Those of length n compete by log-probability / ((5 + n) / 6) ** length_penalty (Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, equation 14).
    """
    num, k = len(token), beam_size
    state = {name: values.repeat_interleave(k, 0) for name, values in net.encode(token).items()}
    latest = token.new_full((num * k,), START)
    score = torch.full((num, k), -math.inf, device=token.device)  # log-probability of each beginning
    score[:, 0] = 0.0  # the others are its copies
    said = token.new_zeros(num, k, max_length)
    answers = Answers(num, k, max_length, token.device)
    for n in range(1, max_length + 1):
        logits, new = net.decode(latest, state)
        score, beam, chosen = _continued(score, logits)
        said = _taken(said, beam)
        said[:, :, n - 1] = chosen
        ends = chosen == END
        answers.add(said[:, :k], score[:, :k] / ((5 + n) / 6) ** length_penalty, ends[:, :k])
        if answers.complete.all():
            break
        score, kept = _best(score.masked_fill(ends, -math.inf), k)
        said, latest = _taken(said, kept), chosen.gather(1, kept).flatten()
        row = (torch.arange(0, num * k, k, device=token.device).unsqueeze(1) + beam.gather(1, kept)).flatten()
        state |= {name: values[row] for name, values in new.items()}  # the rest is the same for all beams of a sentence
    return torch.where(answers.score.isinf().unsqueeze(1), said[:, 0], answers.said)[:, :n]


class Answers:
    """The best of the first `beam_size` that each sentence ended with."""

    def __init__(self, num: int, beam_size: int, max_length: int, device: torch.device) -> None:
        self.beam_size, self.num = beam_size, torch.zeros(num, device=device)
        self.said = torch.zeros(num, max_length, dtype=torch.int64, device=device)
        self.score = torch.full((num,), -math.inf, device=device)

    @property
    def complete(self) -> Tensor:
        return self.num >= self.beam_size

    def add(self, said: Tensor, score: Tensor, ends: Tensor) -> None:
        counts = ends & score.isfinite() & ~self.complete.unsqueeze(1)
        score, at = score.masked_fill(~counts, -math.inf).max(1)
        better = score > self.score
        self.said = torch.where(better.unsqueeze(1), _taken(said, at.unsqueeze(1))[:, 0], self.said)
        self.score = torch.maximum(score, self.score)
        self.num = self.num + counts.sum(1)


def _continued(score: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best beginnings with one more token: as many that go on as there are beams, whichever of the others end.

    Args:
        score: (B, k).
        logits: (B * k, V).

    Returns:
        (B, 2 * k) scores, the best first; which beams these continue; and the tokens that do.
    """
    num, k = score.shape
    top, token = logits[:, FIRST_SAID:].float().topk(min(2 * k, logits.shape[1] - FIRST_SAID))
    log_probability = top - logits.float().logsumexp(-1, keepdim=True)
    every = score.unsqueeze(-1) + log_probability.view(num, k, -1)
    score, which = _best(every.flatten(1), 2 * k)
    return score, which // every.shape[-1], token.view(num, -1).gather(1, which) + FIRST_SAID


def _best(score: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """As `topk`, but of equal ones the first, so that a beam of one is greedy."""
    score, which = score.sort(dim=1, descending=True, stable=True)
    return score[:, :num], which[:, :num]


def _taken(said: Tensor, which: Tensor) -> Tensor:
    return said.gather(1, which.unsqueeze(-1).expand(-1, -1, said.shape[-1]))
