"""A refiner at equal cost: FlowTurbo's blocks against solvers that call the flow alone.

Run `python -m benchmarks.refiner`: minutes on one core. The data is the mixture of `benchmarks.claims`, the
flow a trained network of it, the refiner one of about a tenth of the multiply-accumulates. A budget is in
calls of the flow, of which one of the refiner costs the ratio of these. Blocks are chosen on noises of
their own. Printed are the root mean square distance from 256 RK4 steps, the energy distance to the data times
1000, and microseconds a sample, the least of a few runs; of the first two the mean over three seeds.
"""

from collections.abc import Callable
from time import process_time

import torch
from torch import Tensor

from benchmarks.claims import DATA, POOL, SEEDS, SHAPE, distance, fit, noise_of, teacher_of
from fewstep import grids, refining, solvers
from fewstep.conditions import LAST_VELOCITY
from fewstep.flow import as_flow
from fewstep.methods.refiner import Refiner
from fewstep.metrics.straightness import endpoint_rmse
from fewstep.model import Model
from stages.evaluation.macs import Counting

SOLVERS, BUDGETS, CHOSEN, TESTED, RUNS = ("euler", "ab2", "heun", "heun_pc"), (4, 8, 16, 32), 500, 4000, 5
SMALL = {"name": "mlp", "width": 32, "depth": 1}
SPAN = 0.3  # covers equal steps from a budget of 4 on


def macs_of(model: Model) -> int:
    """Return the multiply-accumulates of a call on one sample."""
    x, t = torch.zeros(1, *SHAPE), torch.zeros(1)
    with torch.no_grad(), Counting() as counting:
        model(x, t, **({LAST_VELOCITY: x} if model.config.refines else {}))
    return counting.flops // 2


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return what a run makes, and the least microseconds of a core a sample that it takes."""
    seconds = []
    for _ in range(RUNS):
        began = process_time()
        made = run()
        seconds.append(process_time() - began)
    return made, 1e6 * min(seconds) / len(made)


@torch.no_grad()
def rows(seed: int, teacher: Model, refiner: Model, ratio: float) -> dict[tuple[int, str], list[float]]:
    """Return the numbers of each budget and way to spend it."""
    flow, found = as_flow(teacher), {}
    fine = grids.uniform(256, solver="rk4")
    chosen_on, tested_on = noise_of("choose", seed, CHOSEN), noise_of("test", seed, TESTED)
    ends, truth = (solvers.integrate(flow, noise, fine).x for noise in (chosen_on, tested_on))
    for budget in BUDGETS:
        ways = {}
        for name in SOLVERS:
            steps = solvers.steps_of(name, budget)
            assert steps, f"no steps of {name} take {budget} calls"
            grid = grids.uniform(steps, solver=name)
            ways[name] = lambda grid=grid: solvers.integrate(flow, tested_on, grid).x
        blocks, _ = refining.choose(flow, refiner, chosen_on, ends, budget=budget, ratio=ratio)
        print(f"seed {seed}, budget {budget}: {blocks}, cost {blocks.cost(ratio):.2f}", flush=True)
        ways["blocks"] = lambda b=blocks: refining.follow(flow, refiner, tested_on, b).x
        for name, way in ways.items():
            made, microseconds = timed(way)
            found[budget, name] = [endpoint_rmse(made, truth), distance(made), microseconds]
    return found


def main() -> None:
    torch.set_num_threads(1)
    found = []
    for seed in SEEDS:
        teacher = teacher_of(seed)
        start = refining.refiner_for(teacher, SMALL, seed=seed)
        data = {"data": DATA.sample(POOL, seed)}
        refiner = fit(Refiner(span=SPAN), start, data, seed, steps=4000, rate=2e-3, teacher=teacher)
        ratio = macs_of(refiner) / macs_of(teacher)
        print(f"seed {seed}: a call of the refiner costs {ratio:.3f} of the flow's", flush=True)
        found.append(rows(seed, teacher, refiner, ratio))
    print(f"{'budget':>6} {'way':<8}{'rmse':>9}{'distance':>10}{'us':>8}")
    for budget, name in found[0]:
        numbers = torch.tensor([row[budget, name] for row in found])
        rmse, apart, _ = numbers.mean(0).tolist()
        print(f"{budget:>6} {name:<8}{rmse:>9.4f}{apart:>10.2f}{numbers[:, 2].min():>8.1f}")


if __name__ == "__main__":
    main()
