"""How much less the gradient of pretraining varies under noise of both signs, at equal network calls.

Run `python -m benchmarks.antithetic`; minutes. The data and the network are those of `benchmarks.claims`;
each path and prediction is trained for 500 steps. Printed is the variance of the gradient (the trace of its
covariance over samples) with noise of both signs, two calls a sample, over that of one noise and twice as
many samples: for all times, and for those of the last twentieth.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.claims import POOL, SHAPE, WIDE, data_of, fit, noise_of
from fewstep import flow, paths, predictions
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build

GAMMA = {"name": "linear", "gamma": 2.0}
CASES: tuple[tuple[str | dict[str, Any], str], ...] = (
    *((GAMMA, prediction) for prediction in ("velocity", "v", "noise", "data")),
    ("linear", "velocity"),
    ("vp", "noise"),
)
SAMPLES = 1024


def ratios(path: str | dict[str, Any], prediction: str) -> list[float]:
    """Return the ratio of variances for all times, and for those of the last twentieth."""
    fresh = build(ModelConfig(architecture=WIDE, shape=SHAPE, path=path, prediction=prediction), seed=0)
    model = fit(FlowMatching(), fresh, {"data": data_of(0, POOL)}, 0, steps=500, rate=2e-3)
    law = paths.get(path)
    weights: dict[str, Tensor] = dict(model.named_parameters())
    canonical = torch.tensor(flow.usable_times(path, prediction), dtype=torch.float64)
    first, last = law.time_of(canonical).float()

    def loss(weights: dict[str, Tensor], data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        data, noise, t = data[None], noise[None], t[None]
        point = law.sample(noise, data, t)
        output = functional_call(model, weights, (point.x, t))
        return (output - predictions.express(prediction, data, noise, point.c)).square().mean()

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))

    def gradients(*batch: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in each(weights, *batch).values()], dim=1).detach()

    data, noise = data_of(5, SAMPLES), noise_of("antithetic", 7, SAMPLES)
    found = []
    for begin in (0.0, 0.95):
        share = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(3))
        t = first + (last - first) * (begin + (1 - begin) * share)
        one = gradients(data, noise, t)
        both = (one + gradients(data, -noise, t)) / 2
        found.append(float(2 * both.var(0).sum() / one.var(0).sum()))
    return found


def main() -> None:
    torch.set_num_threads(1)
    print("| path | prediction | all times | the last twentieth |\n|---|---|---|---|")
    for path, prediction in CASES:
        name = path if isinstance(path, str) else f"linear, gamma {path['gamma']:g}"
        every, last = ratios(path, prediction)
        print(f"| {name} | `{prediction}` | {every:.2f} | {last:.2f} |", flush=True)


if __name__ == "__main__":
    main()
