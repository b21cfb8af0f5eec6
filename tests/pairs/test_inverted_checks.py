"""Inverted pairs are checked alone: by their noise, and by following the flow from it to the data."""

import pytest
import torch
from oracles import gaussian, two_gaussians
from teaching import FINE, MEAN, STD

from fewstep.flow import FieldFlow
from fewstep.grids import Grid, uniform
from fewstep.pairs import PairStatistics, check_inverted, check_pairs, invert_pairs
from fewstep.pairs.inverted_checks import halved


def checked(flow, data, grid, statistics=None):
    made = invert_pairs(flow, {"data": data}, grid, batch=1000)
    statistics = statistics or PairStatistics.of(made, total=len(data))
    return check_inverted(made, flow, grid=grid, batch=1000, statistics=statistics)


def test_inverted_pairs_of_an_exact_flow_pass_in_fine_steps():
    oracle = gaussian(MEAN, STD)
    checks = checked(oracle.flow(), oracle.sample(2000).float(), FINE)
    assert checks.problems() == checks.advice() == []
    assert checks.count == 2000
    assert checks.return_rmse < 1e-3 * checks.stranger_rmse


@pytest.mark.parametrize(
    ("solver", "steps", "told"),
    [
        ("euler", 2, "so these are no pairs of the flow: take more calls"),
        ("euler", 4, "the steps are too coarse for this flow, so take more calls"),
        ("heun", 2, "the steps are too coarse for this flow, so take more calls"),
    ],
)
def test_too_coarse_steps_are_told_where_the_way_back_repeats_them(solver, steps, told):
    oracle = two_gaussians()
    grid, data = uniform(steps, solver=solver), oracle.sample(500).float()
    made = invert_pairs(oracle.flow(), {"data": data}, grid, batch=1000)
    assert check_pairs(made, oracle.flow(), grid=grid, batch=1000).back_rmse == 0
    checks = checked(oracle.flow(), data, grid)
    said = " ".join(checks.problems() + checks.advice())
    assert "following the flow from the noise of inverted pairs, in twice as many steps, misses" in said
    assert told in said


def test_steps_are_halved_since_a_solver_of_even_order_retraces_its_error():
    assert halved(Grid((0.0, 0.5, 1.0), solver="heun")) == Grid((0.0, 0.25, 0.5, 0.75, 1.0), solver="heun")


@pytest.mark.parametrize(("std", "share", "size"), [(1.05, 0.25, 16), (1.25, 0.05, 4)])
def test_wrong_noise_of_a_few_inverted_pairs_is_seen_however_many_others_there_are(std, share, size):
    noise = torch.randn(3200, size, generator=torch.Generator().manual_seed(0))
    some = noise[: round(share * 3200)]
    some *= std
    still = FieldFlow(lambda x, t: torch.zeros_like(x))
    everything = check_pairs({"noise": noise, "data": noise}, still, grid=FINE, batch=3200)
    assert not [told for told in everything.problems() if "normal" in told]
    pairs = {"noise": some, "data": some}
    alone = PairStatistics.of(pairs, total=len(some))
    checks = check_inverted(pairs, still, grid=FINE, batch=3200, statistics=alone)
    assert checks.noise_z > 1.5 * everything.noise_z
    (problem,) = checks.problems()
    told = f"the noise of the {len(some)} inverted pairs is not standard normal: its"
    assert problem.startswith(told)
