"""The check of declarations on data, and on samples that were made under the declaration itself.

Run `python -m benchmarks.declaration`. It trains three small networks on the digits (a velocity, noise and v
prediction), declares each wrongly in one respect after the other, and prints how many wrong declarations, and
right ones, the check of `adopt` stops: with held-out digits, and with what the network makes under that
declaration, as `prepare.teacher` does.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep import declaration, paths, predictions
from fewstep.data import source_for
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import uniform
from fewstep.model import Model, ModelConfig, build
from fewstep.solvers import integrate

STEPS, BATCH, RATE, CHECKED = 1500, 128, 2e-3, 128
SCALED = {"name": "table", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
RIGHT: dict[str, dict[str, Any]] = {
    "velocity": {"path": "linear", "prediction": "reverse_velocity", "time": "1-t", "time_scale": 1.0},
    "noise": {"path": SCALED, "prediction": "noise", "time": "1-t", "time_scale": 1.0},
    "v": {"path": {"name": "table"}, "prediction": "v", "time": "1-t", "time_scale": 1.0},
}
OTHERS: dict[str, list[Any]] = {
    "prediction": list(predictions.PARTS),
    "path": ["linear", "cosine", "vp", {"name": "table"}, SCALED],
    "time": ["t", "1-t", "sigma"],
    "time_scale": [1.0, 999.0, 1000.0],
}


def trained(said: dict[str, Any], data: Tensor) -> Model:
    """Return a network that learnt from images (n, 1, 8, 8) at evenly spread canonical times."""
    architecture = {"name": "mlp", "width": 256, "depth": 3}
    model = build(ModelConfig(architecture=architecture, shape=tuple(data.shape[1:]), **said), seed=0)
    optimiser, path = torch.optim.Adam(model.parameters(), RATE), paths.get(model.config.path)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = data[torch.randint(len(data), (BATCH,), generator=draw)]
        t = path.time_of(0.05 + 0.9 * torch.rand(len(chosen), generator=draw).double())
        c = path.coefficients(t).to(torch.float32)
        noise = torch.randn(chosen.shape, generator=draw)
        x = paths.like(c.a, chosen) * chosen + paths.like(c.b, chosen) * noise
        wanted = predictions.express(said["prediction"], chosen, noise, c)
        loss = (model(x, t.float()) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def stopped(model: Model, data: Tensor | None) -> bool:
    """Return whether the check stops a model, on data (n, 1, 8, 8) or on samples of its own."""
    try:
        if data is None:
            flow = as_flow(model)
            noise = torch.randn(CHECKED, *model.config.shape, generator=torch.Generator().manual_seed(1))
            grid = uniform(64, start=flow.t_start, end=flow.t_end)
            data = integrate(flow, noise, grid).x.clamp(-1, 1)
        return bool(declaration.check(model, data, {}, seed=0).problems)
    except UserError:  # a state that is not finite
        return True


def main() -> None:
    """Train, declare, check, print."""
    samples = source_for("digits", Path()).load(Path()).data[torch.arange(1797)]
    held_out = samples[-CHECKED:]
    found: dict[str, list[tuple[bool, bool]]] = {"right": [], "wrong": []}
    for name, said in RIGHT.items():
        model = trained(said, samples[:-CHECKED])
        wrong = [{key: value} for key, values in OTHERS.items() for value in values if value != said[key]]
        for changed in ({}, *wrong):
            other = Model(replace(model.config, **changed), model.network)
            both = stopped(other, held_out), stopped(other, None)
            found["wrong" if changed else "right"].append(both)
            print(f"{name:9} {changed!s:60} on data {both[0]!s:6} on its own samples {both[1]}", flush=True)
    for kind, all_of in found.items():
        data, own = (sum(each) for each in zip(*all_of, strict=True))
        print(f"{kind}: {len(all_of)}, stopped on data {data}, on samples of its own {own}")


if __name__ == "__main__":
    main()
