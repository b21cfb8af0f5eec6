"""Which states of a stored trajectory a student sees."""

import torch

from fewstep.grids import Grid
from fewstep.pairs import select_timesteps
from fewstep.training.method import Batch


def at_timesteps(stored: list[float], grid: Grid, batch: Batch) -> Batch:
    """Return a batch of trajectories, stored at the times `stored`, with its states at `grid` alone."""
    return batch | {"states": select_timesteps(batch["states"], stored, grid)}


def with_times(stored: list[float], batch: Batch) -> Batch:
    """Return a batch of trajectories with all its states, and their times (n, stored)."""
    states = batch["states"]
    times = torch.tensor(stored, dtype=states.dtype, device=states.device)
    return batch | {"times": times.expand(len(states), -1)}
