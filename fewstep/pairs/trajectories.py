"""Trajectories: where a flow is at chosen times, from which students learn their steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.flow import Flow, noise_of
from fewstep.grids import Grid, nearest_timesteps
from fewstep.pairs._followed import followed
from fewstep.pairs.pairs import join
from fewstep.solvers import CountedFlow, trajectory


@torch.no_grad()
def make_trajectories(
    flow: Flow,
    *,
    seed: int,
    start: int,
    stop: int,
    shape: tuple[int, ...],
    conditions: Conditions,
    timesteps: Sequence[float],
    fine: Grid,
    batch: int,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the trajectories start <= index < stop: "states", (n, timesteps, *shape).

    Beside them "label", "row" or both, (n,), as the conditions have them.

    Args:
        flow: the teacher, its network in eval mode on `device`.
        seed: of the stream "trajectories", from which the noise of each index comes.
        start: first index.
        stop: one past the last.
        shape: of one sample.
        conditions: which those of an index are; `conditions` of the model.
        timesteps: the times to keep, all of them times of `fine`; keep them in the shards' facts.
        fine: the times and the solver to integrate with.
        batch: samples in one network call; it changes the last bits of the states, so fix it.
        device: where to compute; the results are on the CPU.

    Returns:
        The fields for fewstep.shards.

    Raises:
        UserError: if a timestep is no time of `fine`, `fine` does not fit the flow, or the flow takes a noise
            out of the finite numbers; the message has the index, and the time.
    """
    kept = nearest_timesteps(fine.times, timesteps)

    def states(flow: Flow, noise: Tensor, given: dict[str, Tensor]) -> Tensor:
        found = {}
        for position, state in enumerate(trajectory(CountedFlow(flow, given), noise, fine)):
            if position in kept:
                found[position] = state
        return torch.stack([found[position] for position in kept], dim=1)

    indices = range(start, stop)
    samples = draws(
        "trajectories",
        seed,
        indices,
        shape=shape,
        law=noise_of(flow),
        conditions=conditions,
        batch=batch,
        device=device,
    )
    made = followed(states, flow, samples, kind="trajectory", first=start)
    trajectories = join([{"states": kept_states} for _, _, kept_states in made])
    return trajectories | conditions.chosen("trajectories", randomness.keys_of(seed, start, stop))


def select_timesteps(states: Tensor, stored_times: Sequence[float], grid: Grid) -> Tensor:
    """Return the states (n, steps + 1, *shape) at the timesteps of `grid`.

    Args:
        states: (n, stored times, *shape), from make_trajectories.
        stored_times: the timesteps they were made with.
        grid: the student's.

    Returns:
        A part of `states`.

    Raises:
        UserError: if a time of `grid` was not stored; the message names it.
    """
    return states[:, nearest_timesteps(stored_times, grid.times)]
