"""The optimizers and schedules that torch does not have."""

import math
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lab.errors import UserError
from lab.types import Fraction


class MuonAdamW(Optimizer):
    """Muon for the hidden weight matrices, AdamW for everything it must not touch, as one optimizer.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest
    orthogonal one. That has no meaning for biases, norms and embeddings, harms the output layer, and torch's takes no
    convolutions. Its step is scaled to AdamW's (Liu et al. 2025, eq. 4), so that both share one learning rate.

    Args:
        named_params: (name, parameter) pairs, the output layer last, embeddings with `embed` in their name.
        momentum: Muon's.
        weight_decay: decoupled, for both.
    """

    def __init__(self, named_params: Any, lr: float = 1e-3, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        named: list[tuple[str, Parameter]] = list(named_params)
        matrices = [(name, p) for name, p in named if p.ndim == 2 and "embed" not in name]
        hidden = {name for name, _ in matrices[:-1]}
        if not hidden:
            raise UserError("error: optimizer: the net has no hidden matrix for Muon; take adamw.")
        groups: dict[bool, list[tuple[str, Parameter]]] = {True: [], False: []}
        for name, p in named:
            groups[name in hidden].append((name, p))
        self._parts: list[Optimizer] = [
            Muon(groups[True], lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"),
            AdamW(groups[False], lr, weight_decay=weight_decay),
        ]
        super().__init__([group for part in self._parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """One state and one list of groups, seen by this optimizer and, each its own, by its two parts."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups, part.state = [next(groups)], self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: Fraction = 0.05) -> LRScheduler:
    """A linear warm-up over a share of the steps, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    num_warmup = max(1, round(warmup * total_steps))

    def share(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return (1 + math.cos(math.pi * (step - num_warmup) / max(1, total_steps - num_warmup))) / 2

    return LambdaLR(optimizer, share)
