"""Euler steps that are found together against one after the other: rounds, work, and how near samples are.

Run `python -m benchmarks.parallel_steps [models]`: on two Gaussian mixtures, whose flows are known, and on
the model directories that are named. 48 equal steps from 16 noises, one thread, in windows of 8, 16 and 48.
Errors are root mean squares over the numbers of a sample, of the sample where it is largest.
"""

import sys
import time

import torch
from torch import Tensor

from benchmarks._flows import flows
from fewstep import grids, parallel_steps, solvers
from fewstep.flow import Flow

STEPS, NOISES, WINDOWS, TOLERANCES = 48, 16, (8, 16, 48), (1e-2, 1e-3, 1e-4)


@torch.no_grad()
def table(name: str, flow: Flow, noise: Tensor, conditions: dict[str, Tensor]) -> None:
    """Print a line for each window and tolerance."""
    grid = grids.uniform(STEPS, start=flow.t_start, end=flow.t_end)
    began = time.process_time()
    euler = solvers.integrate(flow, noise, grid, **conditions)
    whole = time.process_time() - began
    print(f"\n{name}\n| at once | tolerance | rounds | velocities of a sample | error | time over Euler's |")
    print("|---|---|---|---|---|---|")
    for window in WINDOWS:
        for tolerance in TOLERANCES:
            began = time.process_time()
            found = parallel_steps.integrate(
                flow, noise, grid, at_once=window, tolerance=tolerance, **conditions
            )
            spent = time.process_time() - began
            error = float((found.x - euler.x).flatten(1).square().mean(1).sqrt().max())
            print(
                f"| {window} | {tolerance:g} | {found.rounds} | {found.nfe} | {error:.1g} | "
                f"{spent / whole:.2f} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    for asked in flows(sys.argv[1:], stream="parallel", noises=NOISES):
        table(*asked)


if __name__ == "__main__":
    main()
