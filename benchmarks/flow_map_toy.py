"""How near flow maps of a toy come to its flow, by what they learn from.

Run `python -m benchmarks.flow_map_toy [steps] [rows]`; minutes a row for 6000 steps. The data are eight equal
Gaussians of deviation .2 on a circle of radius 2, whose velocity is known. The network is an mlp of three
blocks of 128, one thread, from fresh weights. Steps of 512 samples, Adam at 1e-3 with a cosine, clipped
at 1, and an average of .999. The error is the root mean square, over coordinates, of where 1, 2, 4 and 8
equal steps end, beside 256 Heun steps from the same 4096 noises.
"""

import math
import sys
import time

import torch
from torch import Tensor

from fewstep import grids, randomness
from fewstep.flow import FieldFlow, as_flow
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.meanflow import Meanflow
from fewstep.methods.reflow import Reflow
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate, trajectory
from fewstep.training.method import Batch, Method
from fewstep.training.needed_inputs import with_needed
from fewstep.training.networks import Training

MODES, RADIUS, STD = 8, 2.0, 0.2
STORED, STATES, BATCH, NFE = 32768, 33, 512, (1, 2, 4, 8)
ROWS: dict[str, Method] = {
    "flow_map, half of the rows until data": FlowMap(),
    "flow_map, any rows": FlowMap(to_data=0.0, from_noise=0.0),
    "meanflow on pairs": Meanflow(),
    "meanflow on pairs, plain mean": Meanflow(power=0),
    "meanflow on data": Meanflow(learn_from="data"),
    "reflow on pairs": Reflow(),
}


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """Return E[data - noise | x], (n, 2), at t (n,)."""
    angles = 2 * math.pi * torch.arange(MODES, dtype=x.dtype) / MODES
    means = RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)
    t = t[:, None]
    variance = (1 - t) ** 2 + (STD * t) ** 2
    apart = x[:, None] - t[..., None] * means
    shares = torch.softmax(-apart.square().sum(dim=2) / (2 * variance), dim=1)
    slope = (STD**2 * t - (1 - t)) / variance
    return (shares[..., None] * (means + slope[..., None] * apart)).sum(dim=1)


@torch.no_grad()
def stored() -> Batch:
    """Return noises, their states at equal times, and the last of these as data."""
    noise = randomness.noises("toy", randomness.keys_of(0, 0, STORED), (2,))
    finer = 8
    grid = grids.uniform(finer * (STATES - 1), solver="heun")
    states = torch.stack(list(trajectory(FieldFlow(velocity), noise, grid))[::finer], dim=1)
    times = torch.linspace(0, 1, STATES).expand(STORED, -1)
    return {"noise": noise, "data": states[:, -1], "states": states, "times": times}


def student_of(method: Method) -> Model:
    """Return an untrained student such as the method trains."""
    architecture = {"name": "mlp", "width": 128, "depth": 3}
    model = build(ModelConfig(architecture=architecture, shape=(2,)), seed=0)
    return with_needed(model, method.needs, seed=0)


def trained(method: Method, held: Batch, steps: int) -> Model:
    """Return the student, with averaged weights, after a training on what is stored."""
    settings = TrainSettings(
        steps=steps, batch=BATCH, learning_rate=1e-3, decay="cosine", clip=1.0, ema=0.999
    )
    student = student_of(method)
    training = Training(method, student, lambda _: student, settings, 0, torch.device("cpu"))
    for step in range(steps):
        keys = randomness.keys_of(1, step * BATCH, (step + 1) * BATCH)
        rows = (randomness.uniforms("rows", keys) * STORED).long()
        training.take_step({name: values[rows] for name, values in held.items()}, keys)
    averaged = training.trainees["student"].result
    assert isinstance(averaged, Model)
    return averaged.eval()


@torch.no_grad()
def errors(model: Model) -> list[float]:
    """Return the root mean square error of the ends of its steps, for each of NFE."""
    noise = randomness.noises("fresh", randomness.keys_of(2, 0, 4096), (2,))
    truth = integrate(FieldFlow(velocity), noise, grids.uniform(256, solver="heun")).x
    ends = (integrate(as_flow(model), noise, grids.uniform(nfe)).x for nfe in NFE)
    return [float((end - truth).square().mean().sqrt()) for end in ends]


def main(steps: int, rows: list[str]) -> None:
    """Print a row for each of these students, or for all."""
    if unknown := set(rows) - ROWS.keys():
        sys.exit(f"unknown student {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    torch.set_num_threads(1)
    held = stored()
    print(f"| student | {' | '.join(f'{nfe} NFE' for nfe in NFE)} | s |\n|{'---|' * (len(NFE) + 2)}")
    for name in rows or ROWS:
        began = time.process_time()
        model = trained(ROWS[name], held, steps)
        spent = time.process_time() - began
        found = " | ".join(f"{error:.3f}" for error in errors(model))
        print(f"| {name} | {found} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6000, sys.argv[2:])
