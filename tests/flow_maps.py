"""Flow maps known in closed form, and models that are one."""

import math

import torch
from oracles import Gaussian, Mixture
from torch import Tensor, nn

from fewstep import paths, predictions
from fewstep.model import Model, ModelConfig
from fewstep.paths import like


def average_velocity(oracle: Gaussian | Mixture, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
    """Return u = (X(x, t, until) - x) / (until - t), (batch, *shape); at until = t the velocity."""
    span = like(until - t, x)
    moved = (gaussian_map if isinstance(oracle, Gaussian) else mixture_map)(oracle, x, t, until)
    far = span.abs() > 1e-9
    average = (moved - x) / torch.where(far, span, torch.ones_like(span))
    return torch.where(far, average, oracle.velocity(x, t))


def gaussian_map(oracle: Gaussian, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
    """Return where the flow to N(mean, std^2) takes x at t by `until`."""

    def std_at(time: Tensor) -> Tensor:
        return ((1 - like(time, x)) ** 2 + (like(time, x) * oracle.std.to(x)) ** 2).sqrt()

    mean = oracle.mean.to(x)
    return like(until, x) * mean + std_at(until) / std_at(t) * (x - like(t, x) * mean)


def mixture_map(oracle: Mixture, x: Tensor, t: Tensor, until: Tensor) -> Tensor:
    """Return the same for a mixture on a line: as its trajectories can't cross, it keeps quantiles.

    They are found by bisection; a last step of Newton's gives the derivatives of the implicit function.
    """
    means, stds, weights = (part.flatten().double() for part in (oracle.means, oracle.stds, oracle.weights))

    def share_below(x: Tensor, time: Tensor) -> Tensor:
        spread = ((1 - time) ** 2 + (time * stds) ** 2).sqrt()
        return (weights * torch.special.ndtr((x - time * means) / spread)).sum(1, keepdim=True)

    def density(x: Tensor, time: Tensor) -> Tensor:
        spread = ((1 - time) ** 2 + (time * stds) ** 2).sqrt()
        each = torch.exp(-(((x - time * means) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
        return (weights * each).sum(1, keepdim=True)

    start, end = t.double()[:, None], until.double()[:, None]
    share = share_below(x.double(), start).detach()
    low, high = torch.full_like(share, -50.0), torch.full_like(share, 50.0)
    for _ in range(100):
        middle = (low + high) / 2
        below = share_below(middle, end.detach()) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    found = (low + high) / 2
    left = share_below(found, end) - share_below(x.double(), start)
    return (found - left / density(found, end.detach())).to(x)


class _Network(nn.Module):
    def __init__(self, oracle: Gaussian | Mixture, config: ModelConfig) -> None:
        super().__init__()
        self.oracle, self.config = oracle, config

    def forward(self, x: Tensor, t: Tensor, until: Tensor | None = None) -> Tensor:
        path = paths.get(self.config.path)
        c, start = path.coefficients(t), path.canonical_time(t)
        end = torch.ones_like(t) if self.config.velocity_until == "data" else start
        y = x / like(c.a + c.b, x)
        u = average_velocity(self.oracle, y, start, end if until is None else path.canonical_time(until))
        data, noise = y + like(1 - start, x) * u, y - like(start, x) * u
        return predictions.express(self.config.prediction, data, noise, c)


def as_flow_map(oracle: Gaussian | Mixture, *, path="linear", prediction="velocity", **config) -> Model:
    """Return a Model that predicts without error, in any convention, for a step until any time."""
    architecture = {"name": "oracle", "second_time": True, "slow_times": True}
    facts = {"architecture": architecture, "shape": oracle.shape, "path": path, "prediction": prediction}
    description = ModelConfig(**facts | config)
    return Model(description, _Network(oracle, description))
