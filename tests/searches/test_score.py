"""Scores against closed forms: on one Gaussian, each noise ends at gain times itself."""

from math import pi, tan

import oracles
import pytest
import torch
from asking import about

from fewstep import grids
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.searches.bellman import Bellman
from fewstep.searching.ends import endpoint_squares, moved_squares
from fewstep.searching.noise import APART
from fewstep.searching.score import score
from fewstep.solvers import integrate


def gaussian(**more):
    return about(oracles.gaussian([0.0], [1.0]).flow(), seed=3, shape=(1,), **({"batch": 64} | more))


def test_every_number_on_one_gaussian():
    best = Grid((0.0, *(1 / (1 + tan((1 - i / 4) * pi / 2)) for i in (1, 2, 3)), 1.0))
    problem = gaussian(truth_steps=500)
    named = score(problem, {4: {"tan": best}}, noises=50)[4]
    ((noise, _),) = problem.noise.batches("report", 50)
    noise = noise.abs().double().flatten()
    off, off_uniform = 1 - 0.7285534, 1 - 0.72  # one less the endpoint gains of the two grids
    rms, found = noise.square().mean().sqrt().item(), named["tan"]
    assert found.rmse == pytest.approx(off * rms, rel=1e-4)
    assert named["uniform"].rmse == pytest.approx(off_uniform * rms, rel=1e-4)
    squares = (off * noise) ** 2
    reach = 1.959964 * squares.std() / 50**0.5
    assert found.rmse_low == pytest.approx((squares.mean() - reach).sqrt().item(), rel=1e-3)
    assert found.rmse_high == pytest.approx((squares.mean() + reach).sqrt().item(), rel=1e-3)
    assert found.median == pytest.approx(off * noise.median().item(), rel=1e-3)
    difference = (off**2 - off_uniform**2) * noise**2
    assert found.difference == pytest.approx(difference.mean().item(), rel=1e-3)
    assert found.standard_error == pytest.approx((difference.std() / 50**0.5).item(), rel=1e-3)
    assert found.median_difference == pytest.approx((off - off_uniform) * noise.median().item(), rel=1e-2)


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
def test_equal_steps_gain_nothing_over_themselves(solver):
    named = score(gaussian(solver=solver), {3: {"own": grids.uniform(3, solver=solver)}}, noises=20)[3]
    assert named["own"] == named["uniform"]
    assert named["own"].rmse > 0
    assert (named["own"].difference, named["own"].standard_error) == (0, 0)


def test_bellman_wins_on_a_mixture_by_more_than_luck():
    problem = about(budgets=(4, 8), batch=256)
    grids_found = Bellman().search(problem).grids
    scores = score(problem, {k: {"bellman": grid} for k, grid in grids_found.items()}, noises=256)
    for named in scores.values():
        found = named["bellman"]
        assert found.rmse_low < found.rmse < min(found.rmse_high, named["uniform"].rmse)
        assert found.difference < -3 * found.standard_error


def test_scores_hardly_depend_on_the_batch():
    found = {2: {"own": Grid((0.0, 0.3, 1.0))}}
    ours, theirs = (score(gaussian(batch=n), found, noises=30)[2]["own"] for n in (30, 7))
    assert ours.difference == pytest.approx(theirs.difference, rel=1e-5)


def test_roles_never_share_a_noise():
    problem, seen = about(), {}
    for role in ("search", "polish", "select", "report"):
        parts = [noise for noise, _ in problem.noise.batches(role, 40)]
        seen[role] = {row.numpy().tobytes() for row in torch.cat(parts)}
        assert len(seen[role]) == 40
    assert len(set.union(*seen.values())) == 160
    assert APART > 10**9


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2"])
@pytest.mark.parametrize("t_end", [1.0, 0.9])
def test_a_moved_timestep_is_the_same_as_another_grid(solver, t_end):
    flow = FieldFlow(oracles.two_gaussians().velocity, t_start=0.1, t_end=t_end)
    problem = about(flow, solver=solver, truth_steps=8)
    grid, times = Grid((0.1, 0.2, 0.5, 0.7, 1.0), solver), (0.3, 0.65)
    for timestep in (1, 2, 3):
        near = [t for t in times if grid.times[timestep - 1] < t < grid.times[timestep + 1]]
        others = [Grid((*grid.times[:timestep], t, *grid.times[timestep + 1 :]), solver) for t in near]
        if near:
            moved = moved_squares(problem, grid, timestep, near, "polish", 20)
            torch.testing.assert_close(moved, endpoint_squares(problem, others, "polish", 20))


def test_the_truth_is_a_fine_run_and_is_made_once():
    asked = []

    def velocity(x, t):
        asked.append(len(x))
        return x * 0

    problem = about(FieldFlow(velocity), truth_steps=10)
    for _ in range(2):
        endpoint_squares(problem, [grids.uniform(1)], "polish", 16)
    assert sum(asked) == 16 * (2 * 10 + 2)
    flow, ((noise, _),) = oracles.two_gaussians().flow(), about().noise.batches("polish", 8)
    squares = endpoint_squares(about(batch=8), [grids.uniform(3)], "polish", 8)
    fine = integrate(flow, noise, grids.uniform(64, solver="heun")).x
    expected = (integrate(flow, noise, grids.uniform(3)).x - fine).double().square().mean(dim=1)
    torch.testing.assert_close(squares[0], expected)


@pytest.mark.parametrize("noises", [0, 1])
def test_too_few_noises(noises):
    with pytest.raises(UserError, match=f"two or more noises, got {noises}"):
        score(gaussian(), {2: {}}, noises=noises)
