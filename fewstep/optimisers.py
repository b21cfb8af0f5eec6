"""Adam and AdamW that leave torch's compiler alone.

torch wraps methods of its optimisers for `torch.compile`; on the first call the wrappers import
torch._dynamo and sympy, which takes longer than a short training. These call what is wrapped: the steps
are the same, bit by bit.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class Plain(Optimizer):
    """The methods of an optimiser as they are before they are wrapped."""

    found_inf: torch.Tensor | None = None
    """For fused optimisers, on their device: whether the next step is left out."""

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class Adam(Plain, torch.optim.Adam):
    """torch.optim.Adam."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(Plain, torch.optim.AdamW):
    """torch.optim.AdamW."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
