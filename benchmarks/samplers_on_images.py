"""Claims of papers on samplers of trained models: solvers at equal NFE, and errors in the network's output.

Run `python -m benchmarks.samplers_on_images NAME [SOURCE [SEED ...]]` in a checkout (digits, seeds 0, 1, 2).
The chain pretrains the models and measures the converged teacher. Printed is the distance to the data over
that of this teacher, with its error, for each seed (docs/evaluation-protocol.md).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._students import compare, run_chain
from benchmarks.claims_on_images import BASE, NO_MODELS
from fewstep import grids, solvers
from fewstep.flow import FieldFlow, Flow, as_flow
from fewstep.grids import Grid
from fewstep.metrics.protocol import ratio
from stages.evaluation.entries import Entry
from stages.evaluation.yardstick import Protocol, Yardstick, measure_constants
from stages.sampling.open_model import open_model
from stages.workers.spread import spread

NFE = (4, 8, 16, 32)
ERRORS = (0.0, 0.25, 0.5, 1.0)
FINEST = 0.999  # time at which EDM's steps end

Case = tuple[str, str, Grid, float]
"""What it is called, the model, its steps, and the size of the errors in its network's output."""


def flowturbo() -> Iterator[Case]:
    """FlowTurbo: the pseudo corrector (heun_pc) against other solvers, on equal steps and those of `tan`."""
    for spacing in ("uniform", "tan"):
        for nfe in NFE:
            for solver in ("euler", "ab2", "heun", "heun_pc"):
                steps = solvers.steps_of(solver, nfe)
                assert steps
                grid = grids.spaced(spacing, steps, start=0.0, end=1.0, solver=solver)
                yield f"{spacing} steps, {nfe} NFE, {solver}", "base", grid, 0.0


def pfgm_plus_plus() -> Iterator[Case]:
    """PFGM++: networks trained on normal noise and on D = 128, off by errors; EDM's steps, 35 NFE."""
    grid = grids.spaced("edm", 18, start=0.0, end=FINEST, solver="heun")
    for error in ERRORS:
        yield f"error {error}, D = infinity", "base", grid, error
        yield f"error {error}, D = 128", "finite", grid, error


CLAIMS: dict[str, Callable[[], Iterator[Case]]] = {
    claim.__name__: claim for claim in (flowturbo, pfgm_plus_plus)
}
PRETRAIN: dict[str, Any] = {
    "base": BASE,
    "finite": BASE | {"noise": {"name": "student_t", "degrees": 128}},
}


def off_by(flow: Flow, error: float, seed: int) -> Flow:
    """Return a flow whose network is off by normal errors of that size in each call.

    The network is that of Karras et al. 2022: an error of its output is c_out / (1 - t) times as large in the
    velocity.
    """
    draw = torch.Generator().manual_seed(seed)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        scale = ((1 - t) ** 2 + t**2).rsqrt().to(x)
        return flow(x, t) + error * scale.view(-1, *(1,) * (x.dim() - 1)) * torch.randn(
            x.shape, generator=draw
        )

    return FieldFlow(velocity, t_end=flow.t_end) if error else flow


WORKER: dict[str, Any] = {}  # what a worker process keeps from one case to the next


def start_worker(artifacts: Path, protocol: Protocol, constants: Any) -> None:
    """Load the nets, and what every case is compared with."""
    yardstick = Yardstick(artifacts / "prepare", artifacts / "nets", protocol, constants)
    WORKER.update(yardstick=yardstick, models=artifacts / "models")


def measure(case: Case) -> Any:
    """Return the scores of one case, in a worker process."""
    name, key, grid, error = case
    model = open_model(WORKER["models"] / key)
    entry = Entry(name, "uniform", grid, 0, "", 1.0)
    return WORKER["yardstick"].measure(entry, model, off_by(as_flow(model), error, seed=0)).scores


def measured(claim: str, source: str, seed: int) -> dict[str, str]:
    """Return what came of each case, by its name."""
    sections = {**NO_MODELS, "evaluate.reference": "base", "evaluate.nfe": [1]}
    artifacts = run_chain({**sections, "pretrain": PRETRAIN, "prepare.source": source, "seed": seed})
    found = json.loads((artifacts / "evaluate" / "metrics.json").read_text())
    teacher = next(row for row in found["rows"] if row["name"] == found["teacher"])
    truth: Case = (teacher["name"], "base", Grid(tuple(teacher["times"]), solver=teacher["solver"]), 0.0)
    cases = [*CLAIMS[claim](), truth]
    protocol = Protocol(blocks=8, samples=1000, batch=125, seed=seed)
    facts = (artifacts, protocol, measure_constants(artifacts / "prepare", artifacts / "nets", protocol))
    scores = dict(spread(measure, cases, start_worker=start_worker, facts=facts))
    ratios = {case[0]: ratio(scores[case], scores[truth]) for case in cases}
    return {f"{name:<32}": f"{by.mean:6.2f} ± {by.error:.2f}" for name, by in ratios.items()}


if __name__ == "__main__":
    compare(CLAIMS, measured)
