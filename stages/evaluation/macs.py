"""How much a network call computes: the same on every machine, unlike its time."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fewstep.conditions import LABEL, LAST_VELOCITY
from fewstep.draws import draws_of
from fewstep.model import Model

aten = torch.ops.aten
FLOPS = flop_registry | {  # which lacks attention as a CPU computes it
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention]
}


@torch.no_grad()
def macs_of(model: Model) -> int:
    """Return the multiply-accumulates of a network call on a sample: those of products and convolutions."""
    device = next(model.parameters()).device
    t = torch.zeros(1, device=device)
    if model.config.refines:  # which has no table to draw from, for its condition is a velocity
        x = torch.zeros(1, *model.config.shape, device=device)
        given = {LAST_VELOCITY: x} | ({LABEL: t.long()} if model.config.classes else {})
    else:
        ((x, given),) = draws_of(model, "macs", 0, range(1), batch=1, device=device)
    with Counting() as counting:
        model(x, t, **given)
    return counting.flops // 2


class Counting(TorchDispatchMode):
    """Adds up what is computed meanwhile.

    torch's own FlopCounterMode takes other operations apart to look for these, for which it imports
    torch._dynamo and sympy. That takes longer than to measure a small model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first call imports torch._dynamo, to be left alone by it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        count: Callable[..., int] | None = FLOPS.get(func._overloadpacket)
        self.flops += count(*args, **named, out_val=result) if count else 0
        return result
