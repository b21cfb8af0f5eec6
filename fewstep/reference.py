"""reference: the flow's endpoint to a tolerance, by dopri5 with steps of each sample's own.

For reference runs, where accuracy matters and calls do not. Few-step sampling is on grids; see
fewstep.solvers; `follow` takes either.
"""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.finite import Finite, NotFiniteError
from fewstep.flow import Flow, as_state, must_know_all_times
from fewstep.grids import Grid
from fewstep.paths import like
from fewstep.solvers import Solution, integrate

# Dormand and Prince 1980, table 2: when the stages are, what each adds of the slopes before it, and the
# difference of its two results. The last stage is at the state of order 5: its slope begins the next step.
STAGES_AT = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
OF_SLOPES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ORDER_5_LESS_4 = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
FIRST_STEP = 0.01
SMALLEST = 10 * sys.float_info.epsilon  # rounding would decide smaller ones
SAFETY, LEAST, MOST = 0.9, 0.2, 10.0  # Hairer, Norsett and Wanner, Solving ODEs I, eq. II.4.13


@dataclass(frozen=True)
class Adaptive:
    """Times that are chosen on the way, where those of a Grid are fixed: as many as a tolerance needs."""

    tolerance: float
    """See `reference`."""


def follow(flow: Flow, noise: Tensor, times: Grid | Adaptive, **conditions: Tensor) -> Solution:
    """Return the samples, (batch, *shape), that `times` makes of `noise`, and the calls it took.

    Raises:
        UserError: see fewstep.solvers.integrate and `reference`.
    """
    if isinstance(times, Grid):
        return integrate(flow, noise, times, **conditions)
    return reference(flow, noise, tolerance=times.tolerance, **conditions)


@torch.no_grad()
def reference(flow: Flow, noise: Tensor, *, tolerance: float = 1e-6, **conditions: Tensor) -> Solution:
    """Follow the flow from noise to data, as closely as asked.

    From the flow's t_start to its t_end and not beyond; what then is left to 1 is one Euler step. Each sample
    has its own steps, so what comes of it does not depend on the others of its batch.

    Args:
        flow: The flow to follow.
        noise: (batch, *shape); float64 noise is integrated in float64.
        tolerance: Bound on the error of one step, root mean square over a sample's dimensions,
            relative to 1 + |x|.
        **conditions: What the flow is conditioned on, each (batch, ...).

    Returns:
        The samples, (batch, *shape), and the calls that the one with most steps took.

    Raises:
        UserError: if the flow has no velocity at each time, the noise's precision can't meet the tolerance,
            or no step is small enough to.
        NotFiniteError: if a velocity is not finite.
    """
    must_know_all_times(flow, by="a reference run")
    noise = as_state(noise)
    finest = torch.finfo(noise.dtype).eps
    if not tolerance > finest:
        raise UserError(
            f"tolerance {tolerance} is out of reach of {noise.dtype}; ask for more than {finest:.1e}"
        )
    x = noise * (1 - flow.t_start)
    everyone = left = torch.arange(len(x), device=x.device)
    t = torch.full((len(x),), flow.t_start, dtype=torch.float64, device=x.device)
    step = torch.full_like(t, min(FIRST_STEP, flow.t_end - flow.t_start))
    watched, nfe = Finite(flow), 0

    def velocity(y: Tensor, times: Tensor, rows: Tensor) -> Tensor:
        nonlocal nfe
        nfe += flow.nfe_per_velocity
        try:
            return watched(y, times, **{name: values[rows] for name, values in conditions.items()}).to(
                y.dtype
            )
        except NotFiniteError as error:
            error.rows = rows[error.rows].tolist()
            raise

    slope = velocity(x, t, everyone)
    while len(left):  # the samples that have not arrived
        now = t[left]
        later = (now + step[left]).clamp(max=flow.t_end)
        if bool((step[left] < SMALLEST).any()):
            raise UserError(
                f"no step is small enough for tolerance {tolerance}: somewhere the flow jumps or grows "
                "without bound; follow a grid instead"
            )
        h = later - now
        slopes, start, length = [slope[left]], x[left], like(h.to(x.dtype), x)
        for at, parts in zip(STAGES_AT, OF_SLOPES, strict=True):
            end = start + length * _sum(parts, slopes)
            slopes.append(velocity(end, later if at == 1 else now + at * h, left))
        bound = tolerance * (1 + torch.maximum(start.abs(), end.abs()))
        error = length * _sum(ORDER_5_LESS_4, slopes) / bound
        size = error.flatten(1).square().mean(dim=1).sqrt().double()
        taken = size <= 1
        factor = (SAFETY * size**-0.2).clamp(LEAST, MOST)
        step[left] = h * torch.where(taken, factor.clamp(min=1.0), factor)
        moved = left[taken]
        x[moved], slope[moved], t[moved] = end[taken], slopes[-1][taken], later[taken]
        left = left[t[left] < flow.t_end]
    if flow.t_end < 1:
        x = x + (1 - flow.t_end) * velocity(x, t, everyone)
    return Solution(x, nfe)


def _sum(parts: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return the slopes' sum, weighted by the parts."""
    return sum((part * slope for part, slope in zip(parts, slopes, strict=True)), torch.zeros_like(slopes[0]))
