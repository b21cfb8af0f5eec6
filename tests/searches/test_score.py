"""Scores against closed forms: on one Gaussian, each noise ends at gain times itself."""

from math import pi, tan

import oracles
import pytest
import torch

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.searches._score import FRESH, score
from fewstep.searches.bellman import Bellman


def scored(found, flow=None, *, shape=(1,), classes=0, batch=64, noises=50, **more):
    flow = flow or oracles.gaussian([0.0], [1.0]).flow()
    return score(flow, found, seed=3, shape=shape, classes=classes, batch=batch, noises=noises, **more)


def test_every_number_on_one_gaussian():
    best = Grid((0.0, *(1 / (1 + tan((1 - i / 4) * pi / 2)) for i in (1, 2, 3)), 1.0))
    result = scored({4: best}, fine_steps=500)[4]
    noise = randomness.noises("search", randomness.keys_of(3, FRESH, FRESH + 50), (1,)).abs().double()
    off, off_uniform = 1 - 0.7285534, 1 - 0.72  # one less the endpoint gains of the two grids
    gain = (off_uniform - off) * noise
    assert result.found == pytest.approx(off * noise.square().mean().sqrt().item(), rel=1e-4)
    assert result.uniform == pytest.approx(off_uniform * noise.square().mean().sqrt().item(), rel=1e-4)
    assert result.mean_gain == pytest.approx(gain.mean().item(), rel=1e-3)
    assert result.median_gain == pytest.approx(gain.median().item(), rel=1e-3)
    assert result.standard_error == pytest.approx((gain.std() / 50**0.5).item(), rel=1e-3)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_equal_steps_gain_nothing_over_themselves(solver):
    result = scored({3: grids.uniform(3, solver=solver)})[3]
    assert result.found == result.uniform > 0
    assert (result.mean_gain, result.median_gain, result.standard_error) == (0, 0, 0)


def test_bellman_wins_on_a_mixture_by_more_than_luck():
    flow = oracles.two_gaussians().flow()
    found = Bellman().search(flow, seed=3, shape=(2,), classes=0, budgets=(4, 8), batch=64).grids
    for result in scored(found, flow, shape=(2,), noises=256).values():
        assert result.found < result.uniform
        assert result.mean_gain > 3 * result.standard_error


def test_scores_hardly_depend_on_the_batch():
    found = {2: Grid((0.0, 0.3, 1.0))}
    assert scored(found, batch=7)[2].mean_gain == pytest.approx(scored(found)[2].mean_gain, rel=1e-5)


def test_noise_is_not_that_of_the_search():
    seen = []

    def velocity(x, t, label):
        seen.append(x[t == 0])
        return 0 * x

    flow = FieldFlow(velocity)
    Bellman(noises=20, fine_steps=4).search(flow, seed=3, shape=(1,), classes=2, budgets=[2], batch=9)
    searched = set(torch.cat(seen).flatten().tolist())
    seen.clear()
    scored({2: grids.uniform(2)}, flow, classes=2)
    assert len(searched) == 20
    assert searched.isdisjoint(torch.cat(seen).flatten().tolist())


@pytest.mark.parametrize("noises", [0, 1])
def test_too_few_noises(noises):
    with pytest.raises(UserError, match=f"two or more noises, got {noises}"):
        scored({2: grids.uniform(2)}, noises=noises)
