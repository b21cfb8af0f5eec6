"""Schedules of discrete consistency against their formulas, two calls in closed form, and pseudo-Huber."""

import math

import pytest
import torch
from flow_maps import as_flow_map
from oracles import as_model, gaussian

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods import _neighbours
from fewstep.methods.consistency import Consistency
from fewstep.training import distances

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
N = 20_000
KEYS = randomness.keys_of(0, 0, N)


def jumping():
    architecture = {"name": "oracle", "slow_times": True}
    return as_flow_map(ORACLE, architecture=architecture, trained_times="until_1", grid=grids.uniform(1))


def level_of(t):
    return (1 - t) / t


def test_intervals_double_after_equal_parts_of_the_training():
    """The table of Song and Dhariwal 2023: 10 to 1280 in 8 parts."""
    found = [_neighbours.doubled((10, 1280), part / 8 + 1e-9) for part in range(8)]
    assert found == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert [_neighbours.doubled((10, 1280), share) for share in (0, 0.1249, 1)] == [10, 10, 1280]
    assert [_neighbours.doubled((3, 3), share) for share in (0, 0.5, 1)] == [3, 3, 3]
    assert _neighbours.doubled((2, 7), 1.0) == 7


def test_levels_of_ict_are_log_normal_on_the_grid_and_weighed_by_their_distance():
    found = _neighbours.ict(as_flow(jumping()), (10, 10), 0.5, KEYS)
    karras = (
        80 ** (1 / 7) + torch.linspace(0, 1, 10, dtype=torch.float64) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    ) ** 7
    levels = torch.cat([karras, torch.zeros(1)])
    shares = torch.special.ndtr((levels.log() + 1.1) / 2)
    shares = (shares[:-1] - shares[1:]) / (shares[0] - shares[-1])
    for number, share in enumerate(shares.tolist()):
        t = 0.0 if number == 0 else 1 / (1 + float(levels[number]))
        here = (found.t - t).abs() < 1e-9
        assert here.double().mean() == pytest.approx(share, abs=0.012)
        assert torch.allclose(found.later[here], 1 / (1 + levels[number + 1]))
        assert torch.allclose(found.weight[here], 1 / (levels[number] - levels[number + 1]))


def test_levels_of_ect_are_log_normal_and_their_neighbours_lower_down_to_data():
    found = _neighbours.ect(as_flow(jumping()), (2, 256), 0.999, KEYS)
    level, lower = level_of(found.t), level_of(found.later)
    assert (level.log().mean() + 1.1).abs() < 0.05
    assert level.log().std() == pytest.approx(2, abs=0.05)
    assert (lower < level).all()
    torch.testing.assert_close(found.weight, 1 / (level - lower), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        lower, level * (1 - (1 + 8 * torch.sigmoid(-level)) / 256), rtol=1e-5, atol=1e-9
    )
    assert not _neighbours.next_level(level, 1).any()  # one part: all is compared with data
    noisiest = torch.tensor([1e4], dtype=torch.float64)
    torch.testing.assert_close(_neighbours.next_level(noisiest, 4), noisiest * 3 / 4)


@pytest.mark.parametrize("schedule", ["ict", "ect"])
def test_the_exact_map_has_no_loss_and_others_a_weighted_one(schedule):
    keys = KEYS[:300]
    nets = {"student": jumping(), "target": jumping(), "teacher": as_model(ORACLE)}
    batch = {"data": ORACLE.sample(300)}
    coarse, fine = (
        Consistency(schedule=schedule, intervals=(n, n)).loss(nets, batch, "student", 1.0, keys)
        for n in (64, 512)
    )
    assert fine.median() < coarse.median() / 64
    assert fine.median() < 1e-8
    other = nets | {"teacher": as_model(gaussian([1.1, -0.5], [0.5, 1.5]))}
    method = Consistency(schedule=schedule, intervals=(512, 512))
    assert method.loss(other, batch, "student", 1.0, keys).median() > 20 * fine.median()
    pair = _neighbours.SCHEDULES[schedule](as_flow(jumping()), (512, 512), 1.0, keys)
    flat = _neighbours.Neighbours(pair.t, pair.later, torch.ones_like(pair.t))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(_neighbours.SCHEDULES, "uniform", lambda *args: flat)
        plain = Consistency(intervals=(512, 512)).loss(other, batch, "student", 1.0, keys)
    weighted = method.loss(other, batch, "student", 1.0, keys)
    torch.testing.assert_close(weighted, pair.weight * plain)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_two_calls_of_the_exact_map_keep_the_law_of_the_data(t):
    """To data, back to t with fresh noise, and to data again: exact mean and std, half forgotten noise."""
    flow, first, fresh = as_flow(jumping()), ORACLE.noise(50), ORACLE.noise(50, seed=1)
    time = torch.full((50,), t).double()
    data = first + flow(first, torch.zeros(50).double())
    x = (1 - t) * fresh + t * data
    again = x + (1 - t) * flow(x, time)
    size = ((1 - t) ** 2 + (t * ORACLE.std) ** 2).sqrt()
    keeps, forgets = t * ORACLE.std / size, (1 - t) / size  # whose squares add up to 1
    torch.testing.assert_close(again, ORACLE.mean + ORACLE.std * (keeps * first + forgets * fresh))
    torch.testing.assert_close(keeps**2 + forgets**2, torch.ones(2).double())


def test_pseudo_huber_is_a_norm_far_away_and_a_square_near_zero():
    c = 0.00054 * math.sqrt(6)
    small, large = (torch.full((1, 2, 3), size, dtype=torch.float64) for size in (1e-7, 1e3))
    torch.testing.assert_close(distances.pseudo_huber(small), small.square().sum(dim=(1, 2)) / (2 * c))
    torch.testing.assert_close(distances.pseudo_huber(large), large.norm(dim=(1, 2)) - c)


def test_an_unknown_schedule_is_named():
    with pytest.raises(UserError, match="unknown schedule 'itc'; did you mean 'ict'"):
        Consistency(schedule="itc")
