"""reference: the flow's endpoint to a tolerance, by an adaptive solver (torchdiffeq's dopri5).

For reference runs, where accuracy matters and calls do not. Few-step sampling is on grids; see
fewstep.solvers; `follow` takes either.
"""

from dataclasses import dataclass

import torch
from etils.epy import lazy_imports
from torch import Tensor

from fewstep.errors import UserError
from fewstep.extras import brought_by
from fewstep.finite import Finite
from fewstep.flow import Flow, as_state, must_know_all_times
from fewstep.grids import Grid
from fewstep.solvers import CountedFlow, Solution, integrate

with lazy_imports(error_callback=brought_by("ode", what="a reference run", library="torchdiffeq")):
    import torchdiffeq


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

    Dormand and Prince 1980, from the flow's t_start to its t_end and not beyond; what then is left
    to 1 is one Euler step. The samples of a batch share their steps, and a step is accepted when the
    worst of them meets the tolerance (torchdiffeq's own norm averages over the batch, so that one
    bad sample may hide): each sample is as good as it would be alone, but among other samples its
    last digits differ, within the tolerance.

    Args:
        flow: The flow to follow.
        noise: (batch, *shape); float64 noise is integrated in float64.
        tolerance: Bound on the error of one step, root mean square over a sample's dimensions,
            relative to 1 + |x|.
        **conditions: What the flow is conditioned on, each (batch, ...).

    Returns:
        The samples, (batch, *shape), and the calls they took.

    Raises:
        UserError: if torchdiffeq is not installed, the flow has no velocity at each time, the noise's
            precision can't meet the tolerance, or no step is small enough to.
        NotFiniteError: if a velocity is not finite.
    """
    must_know_all_times(flow, by="a reference run")
    noise = as_state(noise)
    finest = torch.finfo(noise.dtype).eps
    if not tolerance > finest:
        raise UserError(
            f"tolerance {tolerance} is out of reach of {noise.dtype}; ask for more than {finest:.1e}"
        )
    counted = CountedFlow(Finite(flow), conditions)
    span = torch.tensor([flow.t_start, flow.t_end], dtype=torch.float64, device=noise.device)
    options = {
        "norm": _worst_sample,
        "first_step": min(0.01, flow.t_end - flow.t_start),
        "step_t": span[1:],  # land on t_end: without it the last step overshoots and interpolates back
    }
    start, tolerances = noise * (1 - flow.t_start), {"rtol": tolerance, "atol": tolerance}
    try:
        x = torchdiffeq.odeint(
            lambda t, x: counted(x, t), start, span, method="dopri5", options=options, **tolerances
        )[-1]
    except AssertionError as error:
        if "underflow in dt" not in str(error):
            raise
        raise UserError(
            f"no step is small enough for tolerance {tolerance}: somewhere the flow jumps or grows without "
            "bound; follow a grid instead"
        ) from error
    if flow.t_end < 1:
        x = x + (1 - flow.t_end) * counted(x, flow.t_end)
    return Solution(x, counted.nfe)


def _worst_sample(error: Tensor) -> Tensor:
    return error.flatten(1).square().mean(dim=1).max().sqrt()
