"""How much a network call computes: the same on every machine, unlike its time."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from fewstep.draws import draws
from fewstep.model import Model


@torch.no_grad()
def macs_of(model: Model) -> int:
    """Return the multiply-accumulates of a network call on a sample: those of products and convolutions."""
    device = next(model.parameters()).device
    t = torch.zeros(1, device=device)
    shape, conditions = model.config.shape, model.conditions
    ((x, given),) = draws("macs", 0, range(1), shape=shape, conditions=conditions, batch=1, device=device)
    with FlopCounterMode(display=False) as counter:
        model(x, t, **given)
    return counter.get_total_flops() // 2
