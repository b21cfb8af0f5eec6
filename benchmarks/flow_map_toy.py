"""How near flow maps of a toy come to its flow, by what they learn from.

Run `python -m benchmarks.flow_map_toy [circle | uneven [STEPS [SEED [ROW ...]]]]`; minutes a row for 6000
steps. The data are Gaussians in the plane, whose velocity is known: eight equal ones of deviation .2 on a
circle of radius 2, or eight uneven ones. The network is an mlp of three blocks of 128, one thread, from fresh
weights. Steps of 512 samples, Adam at 1e-3 with a cosine, clipped at 1, and an average of .999. The error is
the root mean square, over coordinates, of where 1, 2, 4 and 8 equal steps end, beside 256 Heun steps from the
same 4096 noises.
"""

import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks._mixtures import UnevenMixture
from fewstep import grids, randomness
from fewstep.flow import FieldFlow, as_flow
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.flow_map_distillation import FlowMapDistillation
from fewstep.methods.meanflow import Meanflow
from fewstep.methods.reflow import Reflow
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate, trajectory
from fewstep.training.method import Batch, Method
from fewstep.training.needed_inputs import with_needed
from fewstep.training.networks import Training

STORED, STATES, BATCH, NFE = 32768, 33, 512, (1, 2, 4, 8)
ROWS: dict[str, Method] = {
    "flow_map, half of the rows until data": FlowMap(),
    "flow_map, any rows": FlowMap(to_data=0.0, from_noise=0.0),
    "flow_map_distillation, eulerian": FlowMapDistillation(identity="eulerian"),
    "flow_map_distillation, lagrangian": FlowMapDistillation(),
    "flow_map_distillation, semigroup": FlowMapDistillation(identity="semigroup"),
    "meanflow on pairs": Meanflow(),
    "meanflow on pairs, plain mean": Meanflow(power=0),
    "meanflow on data": Meanflow(learn_from="data"),
    "meanflow on data, times as published": Meanflow(
        learn_from="data", times="logit_normal", location=0.4, at_once=0.75
    ),
    "reflow on pairs": Reflow(),
}


def circle() -> UnevenMixture:
    """Return eight equal Gaussians."""
    angles = 2 * math.pi * torch.arange(8) / 8
    return UnevenMixture(
        2 * torch.stack([angles.cos(), angles.sin()], dim=1), torch.full((8,), 0.2), torch.ones(8)
    )


def uneven() -> UnevenMixture:
    """Return eight Gaussians of random places, deviations and weights."""
    places, stds, weights = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)).split([2, 1, 1])
    return UnevenMixture(5 * places.T - 2.5, 0.12 + 0.4 * stds[0], 0.2 + weights[0])


DATA = {"circle": circle, "uneven": uneven}


class Exact(nn.Module):
    """The velocity of the data as a network."""

    def __init__(self, data: UnevenMixture) -> None:
        super().__init__()
        self.data = data

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at x (n, 2) and t (n,)."""
        return self.data(x, t)


@torch.no_grad()
def stored(velocity: Callable[[Tensor, Tensor], Tensor]) -> Batch:
    """Return noises, their states at equal times, and the last of these as data."""
    noise = randomness.noises("toy", randomness.keys_of(0, 0, STORED), (2,))
    finer = 8
    grid = grids.uniform(finer * (STATES - 1), solver="heun")
    states = torch.stack(list(trajectory(FieldFlow(velocity), noise, grid))[::finer], dim=1)
    times = torch.linspace(0, 1, STATES).expand(STORED, -1)
    return {"noise": noise, "data": states[:, -1], "states": states, "times": times}


def student_of(method: Method, seed: int) -> Model:
    """Return an untrained student such as the method trains."""
    architecture = {"name": "mlp", "width": 128, "depth": 3}
    model = build(ModelConfig(architecture=architecture, shape=(2,)), seed=seed)
    return with_needed(model, method.needs, seed=seed)


def trained(method: Method, teacher: Model, held: Batch, steps: int, seed: int) -> Model:
    """Return the student, with averaged weights, after a training on what is stored."""
    settings = TrainSettings(
        steps=steps, batch=BATCH, learning_rate=1e-3, decay="cosine", clip=1.0, ema=0.999
    )
    student = student_of(method, seed)
    training = Training(method, student, lambda _: teacher, settings, seed, torch.device("cpu"))
    for step in range(steps):
        keys = randomness.keys_of(1 + seed, step * BATCH, (step + 1) * BATCH)
        rows = (randomness.uniforms("rows", keys) * STORED).long()
        training.take_step({name: values[rows] for name, values in held.items()}, keys)
    averaged = training.trainees["student"].result
    assert isinstance(averaged, Model)
    return averaged.eval()


@torch.no_grad()
def errors(model: Model, velocity: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Return the root mean square error of the ends of its steps, for each of NFE."""
    noise = randomness.noises("fresh", randomness.keys_of(0, 0, 4096), (2,))
    truth = integrate(FieldFlow(velocity), noise, grids.uniform(256, solver="heun")).x
    ends = (integrate(as_flow(model), noise, grids.uniform(nfe)).x for nfe in NFE)
    return [float((end - truth).square().mean().sqrt()) for end in ends]


def main(name: str = "circle", steps: str = "6000", seed: str = "0", *rows: str) -> None:
    """Print a row for each of these students, or for all, and one for the exact velocity."""
    if name not in DATA:
        sys.exit(__doc__)
    if unknown := set(rows) - ROWS.keys():
        sys.exit(f"unknown row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    torch.set_num_threads(1)
    data = DATA[name]()
    teacher = Model(ModelConfig(architecture={"name": "exact"}, shape=(2,)), Exact(data))
    held = stored(data)

    def tell(row: str, model: Model, spent: float) -> None:
        found = " | ".join(f"{error:.3f}" for error in errors(model, data))
        print(f"| {row} | {found} | {spent:.0f} |", flush=True)

    print(f"| student | {' | '.join(f'{nfe} NFE' for nfe in NFE)} | s |\n|{'---|' * (len(NFE) + 2)}")
    tell("the velocity itself", teacher, 0)
    for row in rows or ROWS:
        began = time.process_time()
        model = trained(ROWS[row], teacher, held, int(steps), int(seed))
        tell(row, model, time.process_time() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
