"""Adapter: a network of another library, called as fewstep calls a network."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fewstep.errors import UserError
from fewstep.foreign.found import Described

PREFIX = "network."
"""What the names of a foreign network's weights begin with in a model directory."""
MIDDLE, BLOCKS = "mid_block", "transformer_blocks"
"""What networks of diffusers call their middle, or the list of their blocks."""


class Adapter(nn.Module):
    """A file of fewstep.foreign.adapters defines one for the call signature of a network.

    The network stays in evaluation mode while it is trained: some draw inside when they are not, such as
    DiT, which hides labels; a loss would then depend on more than the sample and its key.
    """

    takes_any: ClassVar[bool] = False
    """Whether it gives a network conditions of any name, and `until` as one of them."""

    def __init__(
        self, network: nn.Module, classes: int, *, second_time: bool = False, slow_times: bool = False
    ) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.second_time = second_time
        self.two_times = (second_time or slow_times) and not self.takes_any
        self.train()

    @property
    def features_at(self) -> str | None:
        """The module whose output are the middle features: as the network says, or as diffusers names it."""
        place = getattr(self.network, "features_at", None)
        if place is None and getattr(self.network, MIDDLE, None) is not None:
            place = MIDDLE
        if place is None and (blocks := getattr(self.network, BLOCKS, None)):
            place = f"{BLOCKS}.{(len(blocks) - 1) // 2}"
        return None if place is None else PREFIX + place

    def train(self, mode: bool = True) -> "Adapter":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        until: Tensor | None = None,
        **conditions: Tensor,
    ) -> Tensor:
        """Return the output, (batch, *shape), for network times t, until and label (batch,), and conditions.

        A network with more channels at its end, which also predicts a variance, is asked for the first.
        """
        if label is not None and not self.classes:
            raise UserError("a label was given to a network without classes")
        if until is not None and not self.second_time:
            raise UserError("`until` was given to a network without a second time")
        if self.two_times:
            t = torch.stack([t, t if until is None else until])
        elif until is not None:
            conditions["until"] = until
        output, channels = self.call(x, t, label, **conditions), x.shape[1]
        if output.shape[1] not in (channels, 2 * channels):
            raise UserError(
                f"the network made {output.shape[1]} channels of {channels}; it must give as many, or twice "
                "as many with those of a variance last"
            )
        return output[:, :channels]

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """Ask the network; label is None if it has no classes, or for its null condition.

        The time t is (batch,), or (2, batch) if the network is given two; see fewstep.foreign.two_times.
        Other conditions come by name, each (batch, ...): those that `describe` says, so most have none.
        """
        raise NotImplementedError

    def named(self, label: Tensor | None, x: Tensor) -> Tensor | None:
        """Return the label, (batch,); none, given to a network with classes, means the null condition."""
        if label is None and self.classes:
            return torch.full((len(x),), self.classes, device=x.device)
        return label

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """Return what the options of a network say; those of diffusers are its config.json.

        Raises:
            UserError: if it needs conditions that fewstep can't supply.
        """
        raise NotImplementedError


def side_of(size: Any) -> tuple[int, int] | None:
    """Return height and width from a `sample_size`: a number, two, or None."""
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (size[0], size[1])
