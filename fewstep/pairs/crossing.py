"""Crossing: how much a flow can't know of the lines between independent noise and data."""

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.flow import Flow, noise_of
from fewstep.paths import like

TIMES = 8  # on each line; stratified, so that few are enough


@torch.no_grad()
def crossing(flow: Flow, data: Tensor, numbers: range, **conditions: Tensor) -> tuple[Tensor, Tensor]:
    """Return V of each sample, and the squared length of its line, both (n,), float64.

    V = integral of E|X1 - X0 - v(X_t, t)|^2 dt along lines X_t from noise X0 to data X1 that know nothing
    of each other; where lines cross, the flow v can only take their mean. Liu et al. 2022 (arXiv
    2209.03003), section 3. Both numbers are summed over coordinates. It takes TIMES velocities; before the
    flow's first usable time, and after its last, the velocity there is used.

    Args:
        flow: v.
        data: X1, (n, *shape), on the flow's device.
        numbers: of the samples; they decide X0 and t.
        **conditions: what the flow is conditioned on, each (n, ...).
    """
    keys = randomness.keys_of(0, numbers.start, numbers.stop)  # one seed for all, so that flows compare
    noise = noise_of(flow).draw("crossing noise", keys, tuple(data.shape[1:])).to(data.device)
    offset = randomness.uniforms("crossing times", keys).to(data.device)
    line, missed = data - noise, torch.zeros(len(data), dtype=torch.float64, device=data.device)
    for stratum in range(TIMES):
        t = ((stratum + offset) / TIMES).clamp(flow.t_start, flow.t_end)
        velocity = flow(noise + like(t, line) * line, t, **conditions)
        missed += (line - velocity).double().square().flatten(1).sum(1) / TIMES
    return missed, line.double().square().flatten(1).sum(1)
