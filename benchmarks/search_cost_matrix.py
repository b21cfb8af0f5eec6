"""All jump costs of 100 noises of 3 x 32 x 32 on 100 fine steps: pair by pair, and by fewstep.

Run `python -m benchmarks.search_cost_matrix`. Both sides see the same trajectories, computed
beforehand, on one thread, each in a process of its own. The first run is what a search pays, which makes
its matrix once: most of what the loop's costs then is memory that it touches for the first time. Later runs
find that memory warm. Both sides are compared with the definition in float64.

The pairwise loop is written from the description of BOSS (arXiv 2312.16414): keep all
states and velocities, then one pass over the noises for each pair of knots.
"""

import os
import subprocess
import sys
from itertools import combinations, pairwise
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fewstep import grids
from fewstep.searches import Problem
from fewstep.searches._jumps import jumps
from fewstep.searches._noise import Given

NOISES, SHAPE, BATCH, REPEATS = 100, (3, 32, 32), 10, 4
GRID = grids.uniform(100)


class Replay:
    """A flow that answers at once, with the velocities of trajectories known beforehand."""

    t_start, t_end, calls_per_velocity = 0.0, 1.0, 1

    def __init__(self, velocities: list[Tensor]) -> None:
        self.at = dict(zip(GRID.times, velocities, strict=False))

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow; the condition `index` says which noises are asked about."""
        first, last = conditions["index"][[0, -1]].tolist()
        return self.at[t][first : last + 1]


def mixture_velocity(x: Tensor, t: float, means: Tensor, std: float = 0.3) -> Tensor:
    """Velocity, (n, dims), to equal clouds N(means, std^2)."""
    variance = (1 - t) ** 2 + (t * std) ** 2
    share = torch.softmax(-torch.cdist(x, t * means).square() / (2 * variance), dim=1)
    off = x - t * (share @ means)
    return share @ means + (t * std**2 - (1 - t)) / variance * off


def trajectories() -> tuple[Tensor, list[Tensor]]:
    """Return noise, (n, *SHAPE), and the velocities at all knots but the last."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(NOISES, *SHAPE, generator=draw)
    means = torch.rand(16, noise[0].numel(), generator=draw) * 2 - 1
    x, velocities = noise.flatten(1), []
    for t, t_next in pairwise(GRID.times):
        velocities.append(mixture_velocity(x, t, means).reshape_as(noise))
        x = x + (t_next - t) * velocities[-1].flatten(1)
    return noise, velocities


def pair_by_pair(noise: Tensor, velocities: list[Tensor]) -> np.ndarray:
    states = [noise]
    for velocity, (t, t_next) in zip(velocities, pairwise(GRID.times), strict=True):
        states.append(states[-1] + (t_next - t) * velocity)
    costs = np.full((len(states), len(states)), np.inf)
    for j, k in combinations(range(len(states)), 2):
        jump = states[j] + (GRID.times[k] - GRID.times[j]) * velocities[j]
        costs[j, k] = (states[k] - jump).square().sum(dim=(1, 2, 3)).mean().item()
    return costs


def ours(noise: Tensor, velocities: list[Tensor]) -> np.ndarray:
    given = Given(noise, {"index": torch.arange(NOISES)}, {"search": NOISES}, BATCH)
    return jumps(Problem(Replay(velocities), given, budgets=(1,)), GRID, cost="squared", noises=NOISES).costs


SIDES = {work.__name__: work for work in (pair_by_pair, ours)}


def measure(name: str) -> None:
    """Print the seconds of the first and of the fastest run of one side, and its largest relative error."""
    torch.set_num_threads(1)
    noise, velocities = trajectories()
    seconds = []
    for _ in range(REPEATS):
        began = perf_counter()
        costs = SIDES[name](noise, velocities)
        seconds.append(perf_counter() - began)
    exact = pair_by_pair(noise.double(), [velocity.double() for velocity in velocities])
    far = np.triu_indices(len(exact), 2)  # a single fine step costs nothing
    error = np.abs(costs[far] / exact[far] - 1).max()
    print(seconds[0], min(seconds), error)


def main() -> None:
    first, warm = {}, {}
    for name in SIDES:
        command = [sys.executable, "-m", "benchmarks.search_cost_matrix", name]
        told = subprocess.check_output(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        first[name], warm[name], error = map(float, told.split())
        print(f"{name:12}  first {first[name]:.3f} s, warm {warm[name]:.3f} s, largest error {error:.1e}")
    for what, seconds in (("first run", first), ("warm", warm)):
        print(f"ratio, {what:10} {seconds['pair_by_pair'] / seconds['ours']:7.1f}")


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
