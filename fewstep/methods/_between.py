"""States of stored trajectories at any time: on cubics between those that are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports
from fewstep.paths import like

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

NODES = 4  # of a cubic


def state_at(states: Tensor, times: Tensor, t: Tensor) -> Tensor:
    """Return where trajectories are at some times, by the cubic through the four stored states around each.

    At a stored time it is the stored state. Between states that lie h apart the error falls with h^4.

    Args:
        states: (n, stored, *shape).
        times: of the states, increasing (n, stored).
        t: one time for each trajectory, within its own (n,).

    Returns:
        The states (n, *shape).
    """
    stored = times.shape[1]
    nodes = min(NODES, stored)
    after = torch.searchsorted(times.contiguous(), t[:, None].contiguous()).squeeze(1)
    first = (after - nodes // 2).clamp(0, stored - nodes)
    near = first[:, None] + torch.arange(nodes, device=t.device)
    at = times.gather(1, near)
    rows = torch.arange(len(states), device=states.device)
    found = torch.zeros_like(states[:, 0])
    for node in range(nodes):
        others = [other for other in range(nodes) if other != node]
        share = ((t[:, None] - at[:, others]) / (at[:, [node]] - at[:, others])).prod(dim=1)
        found = found + like(share, found) * states[rows, near[:, node]]
    return found
