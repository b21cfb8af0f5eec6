"""Helpers of the methods that train a student only at the timesteps of its own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.grids import reach
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model, ModelConfig
    from fewstep.training.method import Batch

with lazy_imports():
    import torch


TOLERANCE = 1e-6  # tolerance of times in float32


def timesteps_of(student: Model) -> tuple[float, ...]:
    """Return the times, steps + 1 of them, of the student's grid.

    Raises:
        UserError: if it has no grid, or one whose sampling differs from the training: other steps than
            Euler's, or guidance (the teacher's samples include its effect already).
    """
    grid = student.config.grid
    if grid is None:
        raise UserError(
            "this method trains at the timesteps of the student's grid, and the student has no grid"
        )
    if grid.solver != "euler" or grid.guidance != 1:
        raise UserError(
            "this method trains a student that samples by Euler steps with guidance 1; "
            f"its grid says {grid.solver} with guidance {grid.guidance}"
        )
    return grid.times


def at_timesteps(times: tuple[float, ...], states: Tensor) -> Tensor:
    """Return the times (n, steps + 1) of a batch's states (n, steps + 1, *shape): the timesteps, for all.

    Raises:
        UserError: if there are more or fewer states than timesteps.
    """
    if states.shape[1] != len(times):
        raise UserError(
            f"the batch has states at {states.shape[1]} timesteps, the student's grid has {len(times)}"
        )
    return torch.tensor(times, device=states.device, dtype=states.dtype).expand(len(states), -1)


def near_timesteps(times: tuple[float, ...], jitter: float, batch: Batch, keys: Tensor) -> Batch:
    """Return states and times, each (n, steps + 1, ...), at random stored times near the timesteps.

    Args:
        times: The student's timesteps, which are among the stored times.
        jitter: How far an inner timestep moves, as a part of the way to the next one on either side.
        batch: states (n, stored, *shape) at times (n, stored), the same for all.
        keys: The keys of the random choice, int64 (n, 2).
    """
    stored, picks, choices = batch["times"][0].cpu().double(), [], 1
    for number, t in enumerate(times):
        low, high = reach(times, number, jitter)
        (near,) = torch.where((stored > low - TOLERANCE) & (stored < high + TOLERANCE))
        if not len(near):
            raise UserError(f"the trajectories have no state near the timestep at {t}; make them again")
        choices = max(choices, len(near))
        chance = randomness.uniforms(f"train.jitter.{number}", keys)
        picks.append(near[(chance * len(near)).long()])
    if choices == 1 and len(times) > 2:
        raise UserError(
            f"jitter {jitter} moves no timestep: the states of the trajectories are further apart; raise it, "
            "or search with more fine steps"
        )
    columns = torch.stack(picks, dim=1).to(batch["states"].device)
    rows = torch.arange(len(keys), device=columns.device)[:, None]
    return {"states": batch["states"][rows, columns], "times": batch["times"][rows, columns]}


def in_range_of(config: ModelConfig, samples: Tensor) -> Tensor:
    """Return a teacher's samples as such a student should make them: in range, if it is trained to be."""
    return samples.clamp(-1, 1) if config.in_range else samples


def draw_timesteps(steps: int, keys: Tensor) -> Tensor:
    """Return a random timestep 0 ... steps - 1 for each sample, int64 (n,)."""
    return (randomness.uniforms("train.knot", keys) * steps).long()  # another name draws other timesteps
