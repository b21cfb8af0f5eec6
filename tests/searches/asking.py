"""What the tests of searches share: questions about known flows."""

import oracles

from fewstep.conditions import Conditions
from fewstep.noises import GAUSSIAN
from fewstep.searches import Problem
from fewstep.searching.noise import Drawn, Given


def about(flow=None, *, budgets=(1, 2, 3, 8), seed=0, shape=(2,), shares=(), batch=16, **more):
    """A question about `flow`, by default a lopsided mixture in the plane, with drawn noise."""
    noise = Drawn(seed, shape, GAUSSIAN, Conditions(shares), batch)
    return Problem(flow or oracles.two_gaussians().flow(), noise, tuple(budgets), **more)


def about_noise(flow, noise, *, batch=16, budgets=(1,), role="search", conditions=None, **more):
    """A question about `flow` with the noise (n, *shape) in one role."""
    given = Given(noise, conditions or {}, {role: len(noise)}, batch)
    return Problem(flow, given, tuple(budgets), **more)


def images():
    """Two clouds of 2 x 3 x 3 images."""
    import torch

    means = torch.linspace(-1, 1, 36).reshape(2, 2, 3, 3)
    return oracles.mixture([0.3, 0.7], means, [0.4, 0.6])
