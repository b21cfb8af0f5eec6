"""The question that is put to a search: a flow, how it will be sampled, and the noise to find out with."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fewstep.errors import UserError
from fewstep.flow import at_one_time, equal_steps, velocity_until
from fewstep.grids import Grid, spaced
from fewstep.progress import SILENT, Progress
from fewstep.spacings import all_dividing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fewstep.flow import Flow
    from fewstep.searching.noise import Noise

Result = TypeVar("Result")
Work = Callable[..., Result]
"""work(flow, noise, conditions), and what lies beside the batch if anything does."""


@dataclass(frozen=True)
class Student:
    """A model that was trained near the timesteps of its grid."""

    grid: Grid
    jitter: float
    """How far from them, as a part of the way to the next timestep on either side."""


@dataclass(frozen=True)
class Problem:
    """Which flow to find grids for, and how they will be used.

    Raises:
        UserError: if the flow is of a student that takes equal steps alone.
    """

    flow: Flow
    noise: Noise
    budgets: tuple[int, ...]
    """Numbers of steps to find a grid for."""
    solver: str = "euler"
    """The solver that will take them."""
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    """How far apart states (n, *shape) are, (n,), for searches over jumps; None is the L2 norm."""
    truth_steps: int = 64
    """Equal Heun steps of the fine run that an end is compared with."""
    student: Student | None = None
    """What is known of a flow that is no flow but near the timesteps of a grid; None for one of all times."""
    teacher: Flow | None = None
    """Of a student, the flow whose fine run says where samples should be; None if the flow itself says it."""
    progress: Progress = SILENT
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What one search found out and another may want as well."""

    def __post_init__(self) -> None:
        if (finest := equal_steps(self.flow)) is not None:
            raise UserError(
                "this student was trained for equal steps alone, and takes none that are searched; sample it "
                f"with {all_dividing(finest)} equal ones"
            )

    @property
    def of_map(self) -> bool:
        """Whether the flow is a flow map, whose velocity is the average over a step."""
        return velocity_until(self.flow) == "any"

    @property
    def followed(self) -> Flow:
        """The flow whose fine run is the truth; of a flow map without teacher, its velocities at one time."""
        if self.teacher is not None:
            return self.teacher
        return at_one_time(self.flow) if self.of_map else self.flow

    def spaced(self, spacing: str, steps: int, *, solver: str) -> Grid:
        """Return `steps` steps for `solver` between the times of the flow; see fewstep.grids.spaced."""
        return spaced(spacing, steps, start=self.flow.t_start, end=self.flow.t_end, solver=solver)

    def each(
        self,
        work: Work[Result],
        role: str,
        count: int,
        *,
        beside: Sequence[Any] | None = None,
        label: str | None = None,
    ) -> Iterator[Result]:
        """Yield what `work` makes of each batch of a role's noises, in their order.

        Args:
            work: Called with the flow, the noise (n, *shape) and its conditions.
            role: Whose noises; see fewstep.searching.noise.
            count: How many of them.
            beside: One further argument for each batch.
            label: What the progress is called; None shows none.
        """
        if label:
            self.progress.start(label, count, unit="noise")
        for number, (noise, conditions) in enumerate(self.noise.batches(role, count)):
            more = () if beside is None else (beside[number],)
            yield work(self.flow, noise, conditions, *more)
            if label:
                self.progress.advance(len(noise))

    def total(self, work: Work[dict[str, np.ndarray]], role: str, count: int) -> dict[str, np.ndarray]:
        """Return the sums, over batches, of what `work` makes of them."""
        sums: dict[str, np.ndarray] = {}
        for part in self.each(work, role, count, label="trajectories"):
            sums = {name: sums[name] + array if sums else array for name, array in part.items()}
        return sums

    def once(self, key: Hashable, find: Callable[[], Result]) -> Result:
        """Return what `find` finds, or found when it was asked for under the same key before."""
        if key not in self.kept:
            self.kept[key] = find()
        return self.kept[key]


def check_budgets(budgets: Sequence[int], fine_steps: int | None = None) -> None:
    """Refuse budgets that no grid, or none on a fine grid of so many steps, can be found for.

    Raises:
        UserError: naming the first such budget.
    """
    if not budgets:
        raise UserError("there are no budgets, numbers of steps, to find grids for")
    for budget in budgets:
        if budget < 1:
            raise UserError(f"budget {budget} is no number of steps; ask for 1 or more")
        if fine_steps is not None and budget > fine_steps:
            raise UserError(
                f"budget {budget} does not fit a fine grid of {fine_steps} steps; "
                f"ask for 1 to {fine_steps} steps or search on a finer grid"
            )
    if len(set(budgets)) < len(budgets):
        raise UserError(f"budgets {list(budgets)} name a number twice")
