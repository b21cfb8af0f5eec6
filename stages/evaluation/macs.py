"""How much a network call computes: the same on every machine, unlike its time."""

from inspect import unwrap

import torch
from torch.utils import flop_counter

from fewstep.model import Model


@torch.no_grad()
def macs_of(model: Model) -> int:
    """Return the multiply-accumulates of a network call on a sample: those of products and convolutions."""
    device = next(model.parameters()).device
    x, t = torch.zeros(1, *model.config.shape, device=device), torch.zeros(1, device=device)
    label = {"label": torch.zeros(1, dtype=torch.int64, device=device)} if model.config.classes else {}
    counter = flop_counter.FlopCounterMode(display=False)
    with Counting(counter):
        model(x, t, **label)
    return counter.get_total_flops() // 2


class Counting(flop_counter._FlopCounterMode):
    """Counts as FlopCounterMode does, and leaves torch's compiler alone.

    torch wraps the method for `torch.compile`; the wrapper imports torch._dynamo and sympy, which takes
    longer than to measure a small model.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    __torch_dispatch__ = unwrap(flop_counter._FlopCounterMode.__torch_dispatch__)
