"""Decoding of a translation net: greedy, and by beam search."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from lab.features.tokens import END, PAD, START

FIRST_ALLOWED = 3  # the tokens <pad>, <unk> and <s> are never written

State = dict[str, Tensor]


@torch.no_grad()
def greedy(net: Any, token: Tensor, max_length: int) -> Tensor:
    """(B, S) token -> (B, max_length) target: the likeliest token at each position, up to `</s>`, then padding."""
    num, place = token.shape[0], torch.arange(max_length, device=token.device)
    memory, state = net.encode(token, max_length)

    def is_running(n: Tensor, written: Tensor, latest: Tensor, ended: Tensor, state: State) -> Tensor:
        return (n < max_length) & ~ended.all()

    def step(n: Tensor, written: Tensor, latest: Tensor, ended: Tensor, state: State) -> tuple[Any, ...]:
        logits, state = net.decode(latest, memory, state)
        latest = (logits[:, FIRST_ALLOWED:].argmax(-1) + FIRST_ALLOWED).masked_fill(ended, PAD)
        return n + 1, torch.where(place == n, latest.unsqueeze(1), written), latest, ended | (latest == END), state

    written, latest = token.new_zeros(num, max_length), token.new_full((num,), START)
    _, written, *_ = _loop(
        is_running, step, token.new_zeros(()), written, latest, torch.zeros_like(latest, dtype=torch.bool), state
    )
    return written


@torch.no_grad()
def beam_search(net: Any, token: Tensor, max_length: int, beam_size: int, length_penalty: float = 0.6) -> Tensor:
    """(B, S) token -> (B, max_length) target: the best translation of a beam search, up to `</s>`, then padding.

    The `beam_size` likeliest prefixes are extended at each position. The search of a sentence ends when `beam_size`
    translations have ended. The score of a translation of length n is its log-probability / ((5 + n) / 6) **
    length_penalty (Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation 14).
    """
    num, k, place = token.shape[0], beam_size, torch.arange(max_length, device=token.device)
    first = torch.arange(0, num * k, k, device=token.device).unsqueeze(1)  # the first row of each sentence in the state
    memory, state = (
        {name: values.repeat_interleave(k, 0) for name, values in part.items()}
        for part in net.encode(token, max_length)
    )

    def is_running(n: Tensor, written: Tensor, latest: Tensor, score: Tensor, best: State, state: State) -> Tensor:
        return (n < max_length) & (best["num"] < k).any()

    def step(n: Tensor, written: Tensor, latest: Tensor, score: Tensor, best: State, state: State) -> tuple[Any, ...]:
        logits, state = net.decode(latest, memory, state)
        score, beam, chosen = _extended(score, logits)
        written = torch.where(place == n, chosen.unsqueeze(-1), _selected(written, beam))
        ends = chosen == END
        best = _better(best, written[:, :k], score[:, :k] / ((6 + n) / 6) ** length_penalty, ends[:, :k])
        score, kept = _top(score.masked_fill(ends, -math.inf), k)
        row = (first + beam.gather(1, kept)).flatten()
        state = {name: values[row] for name, values in state.items()}
        return n + 1, _selected(written, kept), chosen.gather(1, kept).flatten(), score, best, state

    score = torch.full((num, k), -math.inf, device=token.device)  # log-probability of each prefix
    score[:, 0] = 0.0  # the other prefixes are copies of the first
    written = token.new_zeros(num, k, max_length)
    best = {
        "written": token.new_zeros(num, max_length),
        "score": score.new_full((num,), -math.inf),
        "num": token.new_zeros(num),
    }
    latest = token.new_full((num * k,), START)
    _, written, _, _, best, _ = _loop(is_running, step, token.new_zeros(()), written, latest, score, best, state)
    return torch.where(best["score"].isinf().unsqueeze(1), written[:, 0], best["written"])


def _loop(is_running: Callable[..., Tensor], step: Callable[..., tuple[Any, ...]], *state: Any) -> tuple[Any, ...]:
    """`while is_running(*state): state = step(*state)`, also in an exported graph, where no size changes."""
    if torch.compiler.is_exporting():
        return while_loop(is_running, step, state)
    while is_running(*state):
        state = step(*state)
    return state


def _better(best: State, written: Tensor, score: Tensor, ends: Tensor) -> State:
    """The best translation of each sentence so far.

    Args:
        best: before this position, `written` (B, max_length), `score` (B,) and `num` (B,), the number that have ended.
        written: (B, k, max_length) candidates.
        score: (B, k).
        ends: (B, k), true for the candidates that end at this position.
    """
    counts = ends & score.isfinite() & (best["num"] < ends.shape[1]).unsqueeze(1)
    score, at = score.masked_fill(~counts, -math.inf).max(1)
    better = (score > best["score"]).unsqueeze(1)
    written = torch.where(better, _selected(written, at.unsqueeze(1))[:, 0], best["written"])
    return {"written": written, "score": torch.maximum(score, best["score"]), "num": best["num"] + counts.sum(1)}


def _extended(score: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 2k best prefixes with one more token: at least k of them do not end.

    Args:
        score: (B, k).
        logits: (B * k, V).

    Returns:
        (B, 2 * k) scores, the best first; (B, 2 * k) beams that they extend; (B, 2 * k) tokens.
    """
    (num, k), width = score.shape, logits.shape[1] - FIRST_ALLOWED
    top, token = logits[:, FIRST_ALLOWED:].float().topk(2 * k if 2 * k < width else width)  # no `min` in ONNX
    log_probability = top - logits.float().logsumexp(-1, keepdim=True)
    every = score.unsqueeze(-1) + log_probability.view(num, k, -1)
    score, which = _top(every.flatten(1), 2 * k)
    return score, which // every.shape[-1], token.view(num, -1).gather(1, which) + FIRST_ALLOWED


def _top(score: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """As `topk`, but the first of equal scores comes first: a beam of one is greedy."""
    stable = {} if torch.compiler.is_exporting() else {"stable": True}  # in ONNX it is stable
    score, which = score.sort(dim=1, descending=True, **stable)
    return score[:, :num].contiguous(), which[:, :num]  # the values of an exported loop keep their strides


def _selected(written: Tensor, which: Tensor) -> Tensor:
    return written.gather(1, which.unsqueeze(-1).expand(-1, -1, written.shape[-1]))
