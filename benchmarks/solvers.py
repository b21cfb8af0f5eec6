"""Solvers at equal network calls: how far they end from the exact flow.

Run `python -m benchmarks.solvers [models]`: on two Gaussian mixtures, whose flows are known, and on those of
the model directories that are named. Each solver takes 4, 8, 16 and 32 velocities on equal steps and on those
of `tan`; the truth is 256 equal steps of RK4 from the same noise. It prints the root mean square error over
all numbers of the samples.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._mixtures import Mixture
from fewstep import grids, solvers
from fewstep.checkpoint import load_model
from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.flow import FieldFlow, Flow, as_flow
from fewstep.grids import Grid
from fewstep.metrics.straightness import endpoint_rmse
from fewstep.noises import GAUSSIAN

NAMES, VELOCITIES, NOISES = ("euler", "ab2", "heun", "heun_pc"), (4, 8, 16, 32), 512
SPACINGS = ("uniform", "tan")
MIXTURES = ((2, 6, 0.5), (32, 10, 0.3))  # dimensions, components, standard deviation


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
    for dimensions, components, std in MIXTURES:
        field = FieldFlow(Mixture.drawn(dimensions, components, std))
        (drawn,) = draws(
            "solvers",
            0,
            range(NOISES),
            shape=(dimensions,),
            law=GAUSSIAN,
            conditions=Conditions(),
            batch=NOISES,
        )
        table(f"{dimensions}-D, {components} components of standard deviation {std}", field, *drawn)
    for folder in sys.argv[1:]:
        model = load_model(Path(folder)).eval()
        (drawn,) = draws(
            "solvers",
            0,
            range(NOISES),
            shape=model.config.shape,
            law=model.noise,
            conditions=model.conditions,
            batch=NOISES,
        )
        table(folder, as_flow(model), *drawn)


if __name__ == "__main__":
    main()
