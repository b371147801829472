"""Samplers: they integrate a velocity field from noise (time 0) to data (time 1)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

Velocity = Callable[[Tensor, Tensor], Tensor]  # (B, ...) state, (B,) time -> (B, ...) derivative of the state
Solver = Literal["euler", "heun"]


def integrate(velocity: Velocity, noise: Tensor, steps: Tensor, solver: Solver) -> Tensor:
    """Integrate a velocity field from `noise` at time 0 to time 1.

    Heun's method (Heun 1900) takes two evaluations for each step but the last, which is an Euler step: at time 1 the
    field knows nothing of the noise (Karras et al. 2022, algorithm 1).

    Args:
        velocity: the field.
        noise: (B, ...).
        steps: (B,) int64, the number of equal steps of each sample. The cost is that of the largest number.
        solver: "euler" or "heun".
    """

    def step(k: Tensor, x: Tensor, is_last: bool) -> Tensor:
        start, end = ((i / steps).clamp(max=1) for i in (k, k + 1))  # a sample that is done stays at time 1
        length = (end - start).view(-1, *[1] * (x.ndim - 1))
        slope = velocity(x, start)
        if solver == "heun" and not is_last:
            second = velocity(x + length * slope, end)
            slope = torch.where((k + 1 < steps).view_as(length), (slope + second) / 2, slope)
        return x + length * slope

    most = steps.max()
    x = _loop(step, noise, most)
    return step(most - 1, x, is_last=True)


def _loop(step: Callable[[Tensor, Tensor, bool], Tensor], x: Tensor, most: Tensor) -> Tensor:
    """Take all steps but the last; in an exported graph, as a loop."""
    first = torch.zeros_like(most)
    if torch.compiler.is_exporting():

        def body(k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return k + 1, step(k, x, False).contiguous()  # the values of an exported loop keep their strides

        found: Tensor = while_loop(lambda k, x: k < most - 1, body, (first, x.contiguous()))[1]
        return found
    for k in range(int(most) - 1):
        x = step(first + k, x, False)
    return x


def guided(velocity: Callable[[Tensor, Tensor, Tensor], Tensor], guidance: Tensor) -> Velocity:
    """Classifier-free guidance (Ho & Salimans 2022): u + guidance * (v - u); v is conditional, u is not.

    Args:
        velocity: (B, ...) state, (B,) time, (B,) bool whether the conditions are given -> (B, ...) velocity.
        guidance: (B,); 1: no guidance, which halves the cost where all samples have it.
    """
    given = torch.ones_like(guidance, dtype=torch.bool)
    if not torch.compiler.is_exporting() and bool((guidance == 1).all()):
        return lambda x, time: velocity(x, time, given)

    def field(x: Tensor, time: Tensor) -> Tensor:
        conditional, free = velocity(x, time, given), velocity(x, time, ~given)
        return free + guidance.view(-1, *[1] * (x.ndim - 1)) * (conditional - free)

    return field
