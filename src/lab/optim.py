"""Optimizers and schedules that torch does not have."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lab.engine.constraints import Fraction
from lab.engine.errors import UserError


class CombinedOptimizer(Optimizer):
    """Several optimizers combined into one, with one list of parameter groups, one state and one step.

    Args:
        parts: the optimizers, without a common parameter.
        defaults: as in `torch.optim.Optimizer`.
    """

    def __init__(self, parts: Sequence[Optimizer], defaults: dict[str, Any]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], defaults)
        for part in parts:
            if isinstance(part, LBFGS):
                raise UserError(
                    "error: optimizer: LBFGS evaluates the loss again in its step: it cannot be one of several."
                )
            self.state.update(part.state)
        self._share()

    def _share(self) -> None:
        """Give each part the common state and its parameter groups."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups, part.state = [next(groups) for _ in part.param_groups], self.state
            if isinstance(part, CombinedOptimizer):
                part._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


class Muon(Optimizer):
    """Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) for weight matrices and convolutions.

    It replaces the momentum of a matrix by the nearest orthogonal matrix. The weight of a convolution is a matrix with
    a row for each output channel; the Muon of torch refuses it. The step is scaled to that of AdamW (Liu et al. 2025,
    eq. 4).
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "CombinedOptimizer calls the closure"
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                gradient = p.grad.flatten(1)
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(gradient)
                buffer = self.state[p]["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = orthogonal(gradient.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest orthogonal matrix, in bfloat16: five Newton-Schulz steps of Jordan's quintic."""
    x = matrix.bfloat16()
    if is_high := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.T if is_high else x


class MuonAdamW(CombinedOptimizer):
    """Muon for the hidden matrices and convolutions, and AdamW for all other parameters, as one optimizer.

    An orthogonal matrix has no meaning for biases, norms and embeddings, and harms the output layer. Both optimizers
    use the same learning rate.

    Args:
        named_params: (name, parameter) pairs. The output layer is the last matrix or convolution; embeddings have
            `embed` in their name. A convolution of one input channel, such as a depthwise one, is left to AdamW.
        momentum: of Muon.
        weight_decay: decoupled, of both.
    """

    def __init__(self, named_params: Any, lr: float = 1e-3, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        named: list[tuple[str, Parameter]] = list(named_params)
        matrices = [(name, p) for name, p in named if p.ndim > 1 and "embed" not in name]
        hidden = {name for name, p in matrices[:-1] if min(p.shape[:2]) > 1}
        if not hidden:
            raise UserError("error: optimizer: the net has no hidden matrix for Muon; use optimizer=adamw.")
        groups: dict[bool, list[tuple[str, Parameter]]] = {True: [], False: []}
        for name, p in named:
            groups[name in hidden].append((name, p))
        parts = [
            Muon(groups[True], lr, weight_decay, momentum),
            AdamW(groups[False], lr, weight_decay=weight_decay),
        ]
        super().__init__(parts, {"lr": lr})


class BiasSGD(SGD):
    """SGD with Nesterov momentum and a higher learning rate for the biases of norms.

    The norms have no scale, so only their biases learn. The weight decay per step is the same for all parameters
    (Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.4).

    Args:
        named_params: (name, parameter) pairs. The parameters of norms have `norm` in their name.
        bias_scale: the learning rate of the norms divided by that of the other parameters.
    """

    def __init__(
        self,
        named_params: Any,
        lr: float,
        momentum: float = 0.85,
        weight_decay: float = 0.0,
        bias_scale: float = 64.0,
        fused: bool = True,
    ) -> None:
        named: list[tuple[str, Parameter]] = list(named_params)
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in named if "norm" not in name]},
            {
                "params": [p for name, p in named if "norm" in name],
                "lr": lr * bias_scale,
                "weight_decay": weight_decay / bias_scale,
            },
        ]
        super().__init__(groups, lr, momentum, weight_decay=weight_decay, nesterov=True, fused=fused)


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    cycle_momentum: bool = False,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> LRScheduler:
    """The OneCycleLR of torch. The maximum of each parameter group is the learning rate of the group."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(
        optimizer,
        peaks,
        total_steps,
        pct_start=pct_start,
        anneal_strategy=anneal_strategy,
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        three_phase=three_phase,
    )


def triangle(
    optimizer: Optimizer, total_steps: int, peak: Fraction = 0.23, start: Fraction = 0.2, end: Fraction = 0.07
) -> LRScheduler:
    """A linear rise and a linear decay.

    Args:
        optimizer: the optimizer, with the highest learning rate.
        total_steps: length of the run.
        peak: where the learning rate is highest, as a share of the run.
        start: the first learning rate, as a share of the highest.
        end: the last learning rate, as a share of the highest.
    """

    def share(step: int) -> float:
        progress = step / total_steps
        if progress < peak or peak == 1:
            return start + (1 - start) * progress / peak
        return 1 + (end - 1) * min(1.0, (progress - peak) / (1 - peak))

    return LambdaLR(optimizer, share)


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: Fraction = 0.05) -> LRScheduler:
    """A linear warm-up over the share `warmup` of the steps, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    num_warmup = max(1, round(warmup * total_steps))

    def share(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        return (1 + math.cos(math.pi * (step - num_warmup) / max(1, total_steps - num_warmup))) / 2

    return LambdaLR(optimizer, share)
