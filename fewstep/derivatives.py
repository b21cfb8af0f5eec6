"""Derivatives of an average velocity u(x, t, until): along the flow, and by the end of the step.

By a difference of two calls, or exactly by forward-mode differentiation. Both compute in float32 at least,
outside autocast: a difference of values in bfloat16 is mostly their rounding, and torch's forward mode fails
under autocast on CPUs. No gradient passes through them.

A difference reaches STEP to either side of the time that it varies. The start of a step never passes its
end, and neither leaves the usable times: there it is one-sided, of first order. That by an end which can't be
later takes three values instead, and is of second order as others are; many steps end at the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep.errors import UserError, first_line
from fewstep.lazy import lazy_imports
from fewstep.paths import like

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch
    from torch.nn import attention


STEP = 0.005  # of a difference, in canonical time: its error is near 1e-4 for a smooth network in float32

NOT_CONTIGUOUS = "view size is not compatible"
"""What torch says, in place of NotImplementedError, of a norm of what attention made in another order."""

Map = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
"""u(x, t, until), (batch, *shape), from x (batch, *shape) and times (batch,)."""


def along_flow(
    u: Map,
    x: Tensor,
    t: Tensor,
    until: Tensor,
    velocity: Tensor,
    *,
    within: tuple[float, float] = (0.0, 1.0),
    exact: bool = False,
) -> Tensor:
    """Return (velocity . grad_x + d/dt) u at (x, t, until), (batch, *shape): until is held fixed.

    Where until = t there is no step, and the result means nothing.

    Args:
        u: The average velocity.
        x: States, (batch, *shape).
        t: Their times, (batch,).
        until: The ends of the steps, (batch,), t or later.
        velocity: How the states move, (batch, *shape).
        within: The times at which u can be asked for.
        exact: By forward-mode differentiation instead of a difference.

    Raises:
        UserError: if it is to be exact, but a part of the network has no forward mode.
    """
    if exact:
        return _forward_mode(u, (x, t, until), (velocity, torch.ones_like(t), torch.zeros_like(until)))[1]
    low = (t - STEP).clamp(min=within[0])
    high = torch.minimum(t + STEP, until).clamp(max=within[1])
    return _quotient(lambda time: u(x + like(time - t, x) * velocity, time, until), low, high)


def by_end(
    u: Map, x: Tensor, t: Tensor, until: Tensor, *, last: float = 1.0, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Return u and d/d until of u at (x, t, until), each (batch, *shape).

    See `along_flow` for arguments and errors. After `last`, u is the same for every `until`; the derivative
    there is that at `last`.
    """
    until = torch.maximum(until.clamp(max=last), t)
    if exact:
        ahead = (torch.zeros_like(x), torch.zeros_like(t), torch.ones_like(until))
        return _forward_mode(u, (x, t, until), ahead)
    before, after = torch.maximum(until - STEP, t), (until + STEP).clamp(max=last)
    twice = until - 2 * STEP
    cut = (until + STEP > last) & (twice >= t)
    here, low, high = _values(
        lambda end: u(x, t, end), until, torch.where(cut, twice, before), torch.where(cut, before, after)
    )
    backward = (3 * here - 4 * high + low) / (2 * STEP)
    return here, torch.where(like(cut, x), backward, _slope(low, high, like(after - before, x)))


def _quotient(at: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    first, last = _values(at, low, high)
    return _slope(first, last, like(high - low, last))


def _values(at: Callable[[Tensor], Tensor], *times: Tensor) -> list[Tensor]:
    with torch.no_grad(), torch.autocast(times[0].device.type, enabled=False):
        return [at(time) for time in times]


def _slope(first: Tensor, last: Tensor, span: Tensor) -> Tensor:
    return torch.where(span > 0, (last - first) / span.clamp(min=1e-12), 0.0)


def _forward_mode(u: Map, point: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return u at a point, and its derivative in a direction."""
    with (
        torch.no_grad(),
        torch.autocast(point[0].device.type, enabled=False),
        attention.sdpa_kernel(attention.SDPBackend.MATH),  # the other kinds have no forward mode
    ):
        try:
            value, derivative = torch.func.jvp(u, point, direction)[:2]
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and NOT_CONTIGUOUS not in str(error):
                raise
            raise UserError(
                f"this network has no exact derivative ({first_line(error)}); set exact to false"
            ) from error
    return value, derivative
