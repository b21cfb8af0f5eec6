"""Searches choose the times a few-step sampler visits; one file a search, found by its name.

A search is a frozen dataclass whose fields are its options. Its file imports torch only inside
`search`, so that settings check in a blink; what searches share lies in files that start with an
underscore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fewstep.grids import Grid
from fewstep.progress import Progress

if TYPE_CHECKING:
    from fewstep.flow import Flow
    from fewstep.searches._costs import CostMatrix


@dataclass(frozen=True)
class SearchResult:
    """What a search found, by budget: the number of solver steps."""

    grids: dict[int, Grid]
    """The grid of each budget; the caller fills in guidance and model_digest, which a flow hides."""
    costs: CostMatrix
    """What every jump between the knots it chose from costs."""
    objective: dict[int, float]
    """What the search minimised, at its grids."""
    uniform_objective: dict[int, float]
    """The same at equal steps, each knot moved to the nearest that the search could have chosen."""


class Search(Protocol):
    """What a file of this package defines."""

    def check(self, budgets: Sequence[int]) -> None:
        """Refuse budgets that this search can't find grids for; imports no torch.

        Raises:
            UserError: naming the first such budget.
        """

    def search(
        self,
        flow: Flow,
        *,
        seed: int,
        shape: tuple[int, ...],
        classes: int,
        budgets: Sequence[int],
        batch: int,
        device: str = "cpu",
        progress: Progress,
    ) -> SearchResult:
        """Return a grid for every budget, from noise of the stream "search".

        Args:
            flow: The flow to be sampled with few steps; with classes, it is given label (batch,).
            seed: Names the noise, together with the index of each sample.
            shape: Shape of one sample.
            classes: Number of class labels; noise number i gets label i % classes. 0 for none.
            budgets: Numbers of steps to find grids for.
            batch: Noises in one network call; moves the result by rounding alone.
            device: Where the flow runs.
            progress: Told of the noises done.

        Returns:
            The grids and what they were chosen by.

        Raises:
            UserError: if a budget or an option is out of range.
        """
