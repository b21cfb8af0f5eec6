"""Reinterpolate: each step ends on the line from the sample's first noise to the data estimated so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep.samplers import Estimate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reinterpolate:
    """x_next = (1 - t_next) noise + t_next E[data | x]; Lee et al. 2024 (arXiv 2405.20320).

    States are those of training, the lines of pairs, however wrong the first estimates were. Where each noise
    has one data that is right; where it has not, as for a model that learned from independent noise, states
    get a law that the model has not seen, and more steps do not lead to the data's. With one step it is
    Euler's. It has no options.
    """

    learned_from: ClassVar[Literal["independent", "pairs"]] = "pairs"

    def step(self, estimate: Estimate, noise: Tensor, fresh: Tensor, t: float, t_next: float) -> Tensor:
        """See Sampler.step."""
        return (1 - t_next) * noise + t_next * estimate.data
