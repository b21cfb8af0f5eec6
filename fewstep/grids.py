"""Grid: the canonical times a solver visits on its way from noise (0) to data (1)."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from fewstep import registry, spacings
from fewstep.errors import UserError
from fewstep.named_fields import made_of


@dataclass(frozen=True)
class Grid:
    """Timesteps, and what they were chosen for; refuses to be wrong.

    Raises:
        UserError: if the times are not at least two increasing finite numbers in [0, 1] that end
            at 1, or the guidance is not finite.
    """

    times: tuple[float, ...]
    """Timesteps in canonical time; the first is the model's t_start, the last is 1."""
    solver: str = "euler"
    """The solver these timesteps were chosen for."""
    guidance: float = 1.0
    """The classifier-free guidance scale they were chosen for; 1 is the plain conditional model."""
    model_digest: str | None = None
    """The model they were chosen for; None for one that suits any, such as a uniform grid."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        except (TypeError, ValueError) as error:
            raise UserError(f"grid times must be numbers, got {self.times!r}") from error
        if len(self.times) < 2 or not all(map(math.isfinite, self.times)):
            raise UserError(f"a grid needs two or more finite times, got {self.times}")
        if any(later <= earlier for earlier, later in pairwise(self.times)):
            raise UserError(f"grid times must increase, got {self.times}")
        if self.times[0] < 0 or self.times[-1] != 1:
            raise UserError(f"a grid starts at 0 or later and ends at 1 (data), got {self.times}")
        if not math.isfinite(self.guidance):
            raise UserError(f"a grid's guidance must be finite, got {self.guidance}")

    @property
    def steps(self) -> int:
        """The number of solver steps."""
        return len(self.times) - 1

    def must_suit(self, *, model: str, guidance: float | None = None) -> None:
        """Refuse to be used with something else than this grid was searched for.

        Args:
            model: The digest of the model it is used with; see fewstep.checkpoint.model_digest.
            guidance: The guidance scale; None for any.

        Raises:
            UserError: naming what it was searched for, and what it is used with.
        """
        used = {"model_digest": model, "guidance": guidance}
        for name, value in used.items():
            own = getattr(self, name)
            if None not in (own, value) and own != value:
                what = {"model_digest": "the model"}.get(name, name)
                raise UserError(
                    f"a grid of {self.steps} steps was searched for {what} {own}, but is used with {value}; "
                    "search again for that"
                )

    def to_json(self) -> str:
        """Return this grid as JSON; floats survive exactly."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Grid":
        """Return the grid that `to_json` wrote.

        Raises:
            UserError: if the text is not JSON of a grid.
        """
        try:
            return made_of(cls, json.loads(text))
        except json.JSONDecodeError:
            raise UserError(f"not a grid: {text[:80]!r} is no valid JSON; write it by to_json") from None
        except UserError as error:
            raise UserError(f"not a grid: {text[:80]!r}: {error}") from error


def uniform(
    steps: int, *, start: float = 0.0, end: float = 1.0, solver: str = "euler", guidance: float = 1.0
) -> Grid:
    """Return `steps` equal steps in canonical time from `start` to 1; none starts after `end`.

    Raises:
        UserError: if steps is below 1.
    """
    return Grid(spacings.uniform(steps, start=start, end=end), solver=solver, guidance=guidance)


def spaced(spacing: str, steps: int, *, start: float, end: float, solver: str) -> Grid:
    """Return `steps` steps for `solver` from `start` to 1, spaced in closed form.

    Args:
        spacing: a name in fewstep.spacings.SPACINGS.
        steps: how many.
        start: the first timestep, a flow's t_start.
        end: what no inner timestep exceeds, a flow's t_end.
        solver: what will take the steps.

    Raises:
        UserError: if there is no such spacing, or steps is below 1.
    """
    if spacing not in spacings.SPACINGS:
        raise UserError(registry.unknown("spacing", spacing, list(spacings.SPACINGS)))
    return Grid(spacings.SPACINGS[spacing](steps, start=start, end=end), solver=solver)


def with_timesteps(grid: Grid, times: Sequence[float]) -> Grid:
    """Return `grid` with further times among its timesteps; one equal to a timestep to 1e-9 replaces it.

    Raises:
        UserError: if the result is no grid; see Grid.
    """
    kept = [t for t in grid.times if all(abs(t - time) > 1e-9 for time in times)]
    return replace(grid, times=tuple(sorted({*kept, *times})))


def reach(times: Sequence[float], timestep: int, part: float) -> tuple[float, float]:
    """Return how far a timestep may move: `part` of the way to the next one on either side; the ends stay."""
    t = times[timestep]
    if timestep in (0, len(times) - 1):
        return t, t
    return t - part * (t - times[timestep - 1]), t + part * (times[timestep + 1] - t)


def nearest_timesteps(times: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Return, for each wanted time, the position of the timestep that equals it to 1e-9.

    Raises:
        UserError: if a wanted time is no timestep; the message names it.
    """
    found = []
    for time in wanted:
        position = min(range(len(times)), key=lambda i: abs(times[i] - time))
        if abs(times[position] - time) > 1e-9:
            raise UserError(f"time {time} is not among the stored timesteps {list(times)}")
        found.append(position)
    return found
