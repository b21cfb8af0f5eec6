"""All jump costs of 100 noises of 3 x 32 x 32 on 100 fine steps: pair by pair, and by fewstep.

Run `python -m benchmarks.search_cost_matrix`. Both sides see the same trajectories, computed
beforehand, on one thread, each side in a process of its own. What is compared is the cost matrix beyond
the trajectories: the loop is given their states, and of ours, which follows them, the time that following
takes alone is taken off; the ratio with it is printed too. Both are compared with the definition in
float64.

The pairwise loop is written from the description of BOSS (arXiv 2312.16414): keep all
states and velocities, then one pass over the noises for each pair of timesteps.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fewstep import grids
from fewstep.searches import Problem
from fewstep.searching.jumps import jumps
from fewstep.searching.noise import Given

NOISES, SHAPE, BATCH, REPEATS = 100, (3, 32, 32), 20, 3
GRID = grids.uniform(100)


class Replay:
    """A flow that answers at once, with the velocities of trajectories known beforehand."""

    t_start, t_end, nfe_per_velocity = 0.0, 1.0, 1

    def __init__(self, velocities: list[Tensor]) -> None:
        self.at = dict(zip(GRID.times, velocities, strict=False))

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow; the condition `index` says which noises are asked about."""
        first = int(conditions["index"][0])
        return self.at[float(t)][first : first + len(x)]


def mixture_velocity(x: Tensor, t: float, means: Tensor, std: float = 0.3) -> Tensor:
    """Velocity, (n, dims), to equal clouds N(means, std^2)."""
    variance = (1 - t) ** 2 + (t * std) ** 2
    share = torch.softmax(-torch.cdist(x, t * means).square() / (2 * variance), dim=1)
    off = x - t * (share @ means)
    return share @ means + (t * std**2 - (1 - t)) / variance * off


def trajectories() -> tuple[Tensor, list[Tensor]]:
    """Return noise, (n, *SHAPE), and the velocities at all timesteps but the last."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(NOISES, *SHAPE, generator=draw)
    means = torch.rand(16, noise[0].numel(), generator=draw) * 2 - 1
    x, velocities = noise.flatten(1), []
    for t, t_next in pairwise(GRID.times):
        velocities.append(mixture_velocity(x, t, means).reshape_as(noise))
        x = x + (t_next - t) * velocities[-1].flatten(1)
    return noise, velocities


def states_of(noise: Tensor, velocities: list[Tensor]) -> list[Tensor]:
    states = [noise]
    for velocity, (t, t_next) in zip(velocities, pairwise(GRID.times), strict=True):
        states.append(states[-1] + (t_next - t) * velocity)
    return states


def pair_by_pair(states: list[Tensor], velocities: list[Tensor]) -> np.ndarray:
    costs = np.full((len(states), len(states)), np.inf)
    for j, k in combinations(range(len(states)), 2):
        jump = states[j] + (GRID.times[k] - GRID.times[j]) * velocities[j]
        costs[j, k] = (states[k] - jump).square().sum(dim=(1, 2, 3)).mean().item()
    return costs


def ours(noise: Tensor, velocities: list[Tensor]) -> np.ndarray:
    given = Given(noise, {"index": torch.arange(NOISES)}, {"search": NOISES}, BATCH)
    return jumps(Problem(Replay(velocities), given, budgets=(1,)), GRID, cost="squared", noises=NOISES).costs


def following(noise: Tensor, velocities: list[Tensor]) -> None:
    """Follow the trajectories, and do nothing with them."""
    flow = Replay(velocities)
    for x, index in zip(noise.split(BATCH), torch.arange(NOISES).split(BATCH), strict=True):
        for t, t_next in pairwise(GRID.times):
            x = torch.add(x, flow(x, t, index=index), alpha=t_next - t)


def seconds(work: Callable[[], object]) -> float:
    """Return the time of the fastest of some runs, which other work on the machine disturbs least."""
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return min(times)


def measure(side: str) -> None:
    """Print the seconds of one side, those of following the trajectories, and the largest relative error."""
    torch.set_num_threads(1)
    noise, velocities = trajectories()
    states = states_of(noise, velocities)
    work = {"pairs": lambda: pair_by_pair(states, velocities), "ours": lambda: ours(noise, velocities)}[side]
    spent, alone = seconds(work), seconds(lambda: following(noise, velocities))
    precise = [velocity.double() for velocity in velocities]
    exact, costs = pair_by_pair(states_of(noise.double(), precise), precise), work()
    far = np.triu_indices(len(exact), 2)  # a single fine step costs nothing
    print(spent, alone, np.abs(costs[far] / exact[far] - 1).max())


def main() -> None:
    told = {}
    for side in ("pairs", "ours"):
        command = [sys.executable, "-m", "benchmarks.search_cost_matrix", side]
        out = subprocess.check_output(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        told[side] = list(map(float, out.split()))
        print(f"{side:6} {told[side][0]:.3f} s, largest relative error {told[side][2]:.1e}")
    (pairs, _, _), (own, alone, _) = told["pairs"], told["ours"]
    print(f"following the trajectories takes {alone:.3f} s of ours")
    print(f"ratio         {pairs / (own - alone):7.1f}")
    print(f"ratio         {pairs / own:7.1f}  with following the trajectories")


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
