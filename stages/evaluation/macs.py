"""How much a network call computes: the same on every machine, unlike its time."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from fewstep.model import Model


@torch.no_grad()
def macs_of(model: Model) -> int:
    """Return the multiply-accumulates of a network call on a sample: those of products and convolutions."""
    device = next(model.parameters()).device
    x, t = torch.zeros(1, *model.config.shape, device=device), torch.zeros(1, device=device)
    label = {"label": torch.zeros(1, dtype=torch.int64, device=device)} if model.config.classes else {}
    with FlopCounterMode(display=False) as counter:
        model(x, t, **label)
    return counter.get_total_flops() // 2
