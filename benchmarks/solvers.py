"""Solvers at equal network calls: how far they end from the exact flow.

Run `python -m benchmarks.solvers [models]`: on two Gaussian mixtures, whose flows are known, and on those of
the model directories that are named. Each solver takes 4, 8, 16 and 32 velocities on equal steps and on those
of `tan`; the truth is 256 equal steps of RK4 from the same noise. It prints the root mean square error over
all numbers of the samples.
"""

import sys

import torch
from torch import Tensor

from benchmarks._flows import flows
from fewstep import grids, solvers
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.metrics.straightness import endpoint_rmse

NAMES, VELOCITIES, NOISES = ("euler", "ab2", "heun", "heun_pc"), (4, 8, 16, 32), 512
SPACINGS = ("uniform", "tan")


@torch.no_grad()
def table(name: str, flow: Flow, noise: Tensor, labels: dict[str, Tensor]) -> None:
    def end(grid: Grid) -> Tensor:
        return solvers.integrate(flow, noise, grid, **labels).x

    truth = end(grids.uniform(256, start=flow.t_start, end=flow.t_end, solver="rk4"))
    for spacing in SPACINGS:
        print(f"\n{name}, {spacing} steps\n{'velocities':>12}" + "".join(f"{s:>10}" for s in NAMES))
        for velocities in VELOCITIES:
            errors = []
            for solver in NAMES:
                steps = solvers.steps_of(solver, velocities)
                assert steps
                grid = grids.spaced(spacing, steps, start=flow.t_start, end=flow.t_end, solver=solver)
                errors.append(endpoint_rmse(end(grid), truth))
            print(f"{velocities:>12}" + "".join(f"{error:>10.4f}" for error in errors))


def main() -> None:
    torch.set_num_threads(1)
    for asked in flows(sys.argv[1:], stream="solvers", noises=NOISES):
        table(*asked)


if __name__ == "__main__":
    main()
