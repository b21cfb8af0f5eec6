"""LoraSettings: the low-rank adapter of a model, whose other weights are those of another."""

import math
from dataclasses import dataclass

from fewstep.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Settings of a low-rank adapter, which is trained in place of a model's weights.

    To the output of a layer with the weights W it adds alpha / rank * B A x, with A of `rank` rows; Hu et
    al. 2021 (arXiv 2106.09685), section 4.1.

    Raises:
        UserError: for a value that can't be; the message names the setting.
    """

    rank: int = 16
    """Rank of what is added to the weights of a layer."""
    alpha: float = 16.0
    """Times 1 / rank, the factor of what is added."""
    targets: tuple[str, ...] | None = None
    """The layers: names, or ends of names from a dot on, such as to_q or attn1.to_out.0. null takes all
    linear layers and convolutions that such a rank makes smaller."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", float(self.alpha))
        if isinstance(self.targets, str):
            raise UserError(f"targets must be a list of names of layers, such as [{self.targets}]")
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))
        if type(self.rank) is not int or self.rank < 1:
            raise UserError(f"rank must be 1 or more, got {self.rank!r}")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"alpha must be a positive number, got {self.alpha!r}")
        if self.targets == ():
            raise UserError("targets must be names of layers, or null for all; got none")
