"""Which target a translation net would write: greedily, or the best that a beam finds."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from lab.features.tokens import END, PAD, START

FIRST_SAID = 3  # below it are <pad>, <unk> and <s>

State = dict[str, Tensor]


@torch.no_grad()
def greedy(net: Any, token: Tensor, max_length: int) -> Tensor:
    """(B, S) token -> (B, max_length) target: at each place the likeliest token, up to `</s>`, then padding."""
    num, place = token.shape[0], torch.arange(max_length, device=token.device)
    memory, state = net.encode(token, max_length)

    def goes_on(n: Tensor, said: Tensor, latest: Tensor, ended: Tensor, state: State) -> Tensor:
        return (n < max_length) & ~ended.all()

    def step(n: Tensor, said: Tensor, latest: Tensor, ended: Tensor, state: State) -> tuple[Any, ...]:
        logits, state = net.decode(latest, memory, state)
        latest = (logits[:, FIRST_SAID:].argmax(-1) + FIRST_SAID).masked_fill(ended, PAD)
        return n + 1, torch.where(place == n, latest.unsqueeze(1), said), latest, ended | (latest == END), state

    said, latest = token.new_zeros(num, max_length), token.new_full((num,), START)
    _, said, *_ = _loop(
        goes_on, step, token.new_zeros(()), said, latest, torch.zeros_like(latest, dtype=torch.bool), state
    )
    return said


@torch.no_grad()
def beam_search(net: Any, token: Tensor, max_length: int, beam_size: int, length_penalty: float = 0.6) -> Tensor:
    """The same, of the `beam_size` likeliest beginnings at each place; it ends where so many have said `</s>`.

    Those of length n compete by log-probability / ((5 + n) / 6) ** length_penalty (Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, equation 14).
    """
    num, k, place = token.shape[0], beam_size, torch.arange(max_length, device=token.device)
    first = torch.arange(0, num * k, k, device=token.device).unsqueeze(1)  # rows of the state
    memory, state = (
        {name: values.repeat_interleave(k, 0) for name, values in part.items()}
        for part in net.encode(token, max_length)
    )

    def goes_on(n: Tensor, said: Tensor, latest: Tensor, score: Tensor, best: State, state: State) -> Tensor:
        return (n < max_length) & (best["num"] < k).any()

    def step(n: Tensor, said: Tensor, latest: Tensor, score: Tensor, best: State, state: State) -> tuple[Any, ...]:
        logits, state = net.decode(latest, memory, state)
        score, beam, chosen = _continued(score, logits)
        said = torch.where(place == n, chosen.unsqueeze(-1), _taken(said, beam))
        ends = chosen == END
        best = _better(best, said[:, :k], score[:, :k] / ((6 + n) / 6) ** length_penalty, ends[:, :k])
        score, kept = _top(score.masked_fill(ends, -math.inf), k)
        row = (first + beam.gather(1, kept)).flatten()
        state = {name: values[row] for name, values in state.items()}
        return n + 1, _taken(said, kept), chosen.gather(1, kept).flatten(), score, best, state

    score = torch.full((num, k), -math.inf, device=token.device)  # log-probability of each beginning
    score[:, 0] = 0.0  # the others are its copies
    said = token.new_zeros(num, k, max_length)
    best = {
        "said": token.new_zeros(num, max_length),
        "score": score.new_full((num,), -math.inf),
        "num": token.new_zeros(num),
    }
    latest = token.new_full((num * k,), START)
    _, said, _, _, best, _ = _loop(goes_on, step, token.new_zeros(()), said, latest, score, best, state)
    return torch.where(best["score"].isinf().unsqueeze(1), said[:, 0], best["said"])


def _loop(goes_on: Callable[..., Tensor], step: Callable[..., tuple[Any, ...]], *state: Any) -> tuple[Any, ...]:
    """`while goes_on(*state): state = step(*state)`, also in a graph, where all sizes stay as they are."""
    if torch.compiler.is_exporting():
        return while_loop(goes_on, step, state)
    while goes_on(*state):
        state = step(*state)
    return state


def _better(best: State, said: Tensor, score: Tensor, ends: Tensor) -> State:
    """The best of the first k that each sentence ended with.

    Args:
        best: (B, max_length) of those before, their (B,) score, and how many they were.
        said: (B, k, max_length).
        score: (B, k).
        ends: which of them end.
    """
    counts = ends & score.isfinite() & (best["num"] < ends.shape[1]).unsqueeze(1)
    score, at = score.masked_fill(~counts, -math.inf).max(1)
    better = (score > best["score"]).unsqueeze(1)
    said = torch.where(better, _taken(said, at.unsqueeze(1))[:, 0], best["said"])
    return {"said": said, "score": torch.maximum(score, best["score"]), "num": best["num"] + counts.sum(1)}


def _continued(score: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best beginnings with one more token: as many that go on as there are beams, whichever of the others end.

    Args:
        score: (B, k).
        logits: (B * k, V).

    Returns:
        (B, 2 * k) scores, the best first; which beams these continue; and the tokens that do.
    """
    (num, k), width = score.shape, logits.shape[1] - FIRST_SAID
    top, token = logits[:, FIRST_SAID:].float().topk(2 * k if 2 * k < width else width)  # a graph has no `min`
    log_probability = top - logits.float().logsumexp(-1, keepdim=True)
    every = score.unsqueeze(-1) + log_probability.view(num, k, -1)
    score, which = _top(every.flatten(1), 2 * k)
    return score, which // every.shape[-1], token.view(num, -1).gather(1, which) + FIRST_SAID


def _top(score: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """As `topk`, but of equal ones the first, so that a beam of one is greedy."""
    stable = {} if torch.compiler.is_exporting() else {"stable": True}  # ONNX's sort is, and has no such argument
    score, which = score.sort(dim=1, descending=True, **stable)
    return score[:, :num].contiguous(), which[:, :num]  # in a graph a loop's values keep their strides


def _taken(said: Tensor, which: Tensor) -> Tensor:
    return said.gather(1, which.unsqueeze(-1).expand(-1, -1, said.shape[-1]))
