"""Where the noise of a search comes from: disjoint sets, so that no number is judged on what it was found on.

search    what a search looks at
polish    what timesteps are moved by, and the best candidate is chosen on
select    decides whether the moved timesteps are kept
report    what the scores are of
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.flow import as_state
from fewstep.noises import Law

ROLES = ("search", "polish", "select", "report")
APART = 1 << 32  # from the first index of a role's noises to that of the next


class Noise(Protocol):
    """A set of noises for each role."""

    def batches(self, role: str, count: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the first `count` noises of a role, (n, *shape), and their conditions, a batch at a time."""


@dataclass(frozen=True)
class Drawn:
    """Noise by number, from a seed; there is no end of it."""

    seed: int
    shape: tuple[int, ...]
    law: Law
    conditions: Conditions
    """Of the model, as the law of the noise."""
    batch: int
    """Noises in one network call; moves results by rounding alone."""
    device: str = "cpu"

    def batches(self, role: str, count: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """See Noise."""
        return map(self.draw, self.parts(role, count))

    def parts(self, role: str, count: int) -> list[range]:
        """Return the numbers of the noises of each batch."""
        first = ROLES.index(role) * APART
        stop = first + count
        return [range(start, min(start + self.batch, stop)) for start in range(first, stop, self.batch)]

    def draw(self, part: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the noises of those numbers, and their conditions."""
        return next(
            draws(
                "search",
                self.seed,
                part,
                shape=self.shape,
                law=self.law,
                conditions=self.conditions,
                batch=len(part),
                device=self.device,
            )
        )


class Given:
    """Noise that somebody hands over, dealt to the roles in their order."""

    def __init__(
        self, noise: Tensor, conditions: Mapping[str, Tensor], needs: Mapping[str, int], batch: int
    ) -> None:
        """Deal `noise`, (N, *shape), with `conditions`, each (N, ...); `needs` is how many a role gets.

        Raises:
            UserError: if there is none, or less than the roles need together.
        """
        if not len(noise):
            raise UserError("there is no noise to search with")
        for name, values in conditions.items():
            if len(values) != len(noise):
                raise UserError(f"there are {len(values)} of condition {name!r} for {len(noise)} noises")
        needs = {role: needs.get(role, 0) for role in ROLES}
        if len(noise) < sum(needs.values()):
            parts = ", ".join(f"{count} to {role}" for role, count in needs.items() if count)
            raise UserError(
                f"this search needs {sum(needs.values())} noises ({parts}), got {len(noise)}; "
                "give it more, or ask it to use fewer"
            )
        firsts = torch.tensor([0, *needs.values()]).cumsum(0).tolist()
        self.first = dict(zip(ROLES, firsts, strict=False))
        self.noise, self.conditions, self.batch = as_state(noise), conditions, batch

    def batches(self, role: str, count: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """See Noise."""
        start = self.first[role]
        for at in range(start, start + count, self.batch):
            part = slice(at, min(at + self.batch, start + count))
            yield self.noise[part], {name: values[part] for name, values in self.conditions.items()}
