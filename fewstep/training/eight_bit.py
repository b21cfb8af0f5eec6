"""AdamW with moments of 8 bits, a quarter of their bytes, as torchao holds them.

Blocks of 256 numbers share a scale, and each number is one of 256 values (Dettmers et al. 2021, arXiv
2110.02861). Weights of fewer than 4096 numbers, or of a number that blocks do not divide, keep moments of
float32.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.lazy import brought_by, lazy_imports
from fewstep.optimisers import Plain

with lazy_imports(error_callback=brought_by("eight-bit", what="moments: 8bit", library="torchao")):
    from torchao.optim import adam, subclass_8bit

for chatty in ("torchao", "torch.utils._pytree"):  # at import, of kernels that are not used here
    logging.getLogger(chatty).setLevel(logging.ERROR)

BLOCK = 256  # numbers with a scale
LEAST = 4096  # numbers of a weight whose moments have 8 bits
MOMENTS = {"exp_avg": True, "exp_avg_sq": False}  # and whether it has a sign


class EightBitAdamW(Plain):
    """AdamW, whose state_dict holds plain tensors: of a moment of 8 bits the codes and the scales.

    The step is torchao's, which is compiled there and here is not: so it needs no compiler.
    """

    def __init__(self, weights: Sequence[Tensor], *, betas: tuple[float, float], weight_decay: float) -> None:
        adam.single_param_adam  # noqa: B018, says at once if it is not there
        super().__init__(weights, {"lr": 0.0, "betas": betas, "eps": 1e-8, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Step, unless `found_inf`."""
        if self.found_inf:
            return
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.state[weight] = {"step": torch.tensor(0.0)} | {
                        name: _zeros(weight, signed) for name, signed in MOMENTS.items()
                    }
                moments = self.state[weight]
                moments["step"] += 1
                adam.single_param_adam(
                    weight.detach(),
                    weight.grad,
                    *moments.values(),
                    None,
                    torch.tensor(group["lr"]),
                    *group["betas"],
                    group["weight_decay"],
                    group["eps"],
                    IS_ADAMW=True,
                    BF16_STOCHASTIC_ROUND=False,
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the state, of plain tensors, by the number of the weight."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        state = {
            number: {
                part: tensor
                for name, moment in self.state[weight].items()
                for part, tensor in _parts(name, moment).items()
            }
            for number, weight in enumerate(weights)
            if weight in self.state
        }
        return {"state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned; other weights begin with a new one."""
        self.state.clear()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, parts in state_dict["state"].items():
            weight = weights[number]
            moments = {"step": parts["step"].clone()}
            for name, signed in MOMENTS.items():
                moments[name] = _zeros(weight, signed)
                for part, tensor in _parts(name, moments[name]).items():
                    tensor.copy_(parts[part])
            self.state[weight] = moments


def _zeros(weight: Tensor, signed: bool) -> Tensor:
    """Return a moment of a weight at the start, as torchao's own optimiser has it."""
    if weight.numel() < LEAST or weight.numel() % BLOCK:
        return torch.zeros_like(weight)
    return subclass_8bit.OptimState8bit.zeros(weight.shape, signed, BLOCK, weight.device, dtype=weight.dtype)


def _parts(name: str, moment: Tensor) -> dict[str, Tensor]:
    """Return the plain tensors that a moment consists of, by name."""
    if not isinstance(moment, subclass_8bit.OptimState8bit):
        return {name: moment}
    return {f"{name}/codes": moment.codes, f"{name}/scale": moment.scale}
