"""Pairs and trajectories to a tolerance, and those that leave the finite numbers."""

import pytest
import torch
from oracles import gaussian

from fewstep import randomness
from fewstep.conditions import Conditions
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import uniform
from fewstep.pairs import make_pairs, make_trajectories
from fewstep.reference import Adaptive

ASKED = {"seed": 0, "start": 5, "stop": 25, "shape": (3,), "conditions": Conditions(), "batch": 8}


def breaking(numbers, spoil, stream="couple"):
    """Return a flow whose state, followed from the noise of these pairs, is spoilt at t = 0.5 and later."""
    marks = randomness.noises(stream, randomness.keys_of(0, 0, 30), (3,))[numbers]

    def velocity(x, t):  # at rest, so that a state is its noise until then
        chosen = (x[:, None] == marks).all(-1).any(-1) & (t >= 0.5)
        return torch.where(chosen[:, None], spoil, torch.zeros_like(x))

    return FieldFlow(velocity)


def test_pairs_meet_a_tolerance():
    exact = gaussian([0.5, -1.0, 2.0], [0.3, 1.0, 2.0])
    pairs = make_pairs(exact.flow(), **ASKED, grid=Adaptive(1e-5))
    torch.testing.assert_close(pairs["data"], exact.position(pairs["noise"], 1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", [uniform(8), uniform(8, solver="heun"), uniform(4, solver="rk4")])
def test_the_pair_that_breaks_is_named_with_its_time_and_the_number_of_others(grid):
    told = r"pair 14 \(and 2 more of its batch of 8\) can't be made: at t = 0\.5 the velocity is not finite"
    with pytest.raises(UserError, match=told):
        make_pairs(breaking([14, 17, 20], torch.nan), **ASKED, grid=grid)


@pytest.mark.parametrize(("steps", "time"), [(2, "1"), (4, r"0\.75")])
def test_a_state_that_overflows_between_finite_velocities_is_reported_with_its_time(steps, time):
    turning = FieldFlow(lambda x, t: torch.where(t < 0.5, -3e38, 3e38)[:, None].expand_as(x))
    told = rf"pair 5 \(and 7 more.*at t = {time} the state is not finite"
    with pytest.raises(UserError, match=told):
        make_pairs(turning, **ASKED, grid=uniform(steps, solver="ab2"))


def test_a_pair_that_breaks_is_named_under_a_tolerance_too():
    with pytest.raises(
        UserError, match=r"pair 9 \(and 0 more of its batch of 8\).*at t = 0\.\d+ the velocity"
    ):
        make_pairs(breaking([9], torch.inf), **ASKED, grid=Adaptive(1e-4))


def test_the_trajectory_that_breaks_is_named():
    flow = breaking([22], torch.nan, stream="trajectories")
    with pytest.raises(UserError, match=r"trajectory 22 \(and 0 more of its batch of 4\).*at t = 0\.5"):
        make_trajectories(flow, **ASKED, timesteps=(0.0, 0.5, 1.0), fine=uniform(8))


def test_good_pairs_cost_no_call_more():
    asked = []

    def velocity(x, t):
        asked.append(len(x))
        return torch.zeros_like(x)

    make_pairs(FieldFlow(velocity), **ASKED, grid=uniform(3))
    assert asked == [8] * 6 + [4] * 3
