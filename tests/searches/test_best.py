"""Best: what it chooses, and that luck does not."""

from statistics import NormalDist

import pytest
import torch
from asking import about

from fewstep import grids
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.searches.best import Best
from fewstep.searching import descent
from fewstep.searching.descent import descend
from fewstep.searching.ends import endpoint_squares
from fewstep.searching.score import mean_and_error


class Listener:
    def __init__(self):
        self.notes, self.totals = [], {}

    def start(self, label, total, *, done=0, unit="step"):
        self.label = label
        self.totals.setdefault(label, []).append([total, 0])

    def advance(self, units=1, **values):
        self.totals[self.label][-1][1] += units

    def note(self, text):
        self.notes.append(text)


def test_best_is_no_worse_than_any_candidate_and_reports_its_choice():
    problem = about(budgets=(1, 2, 4), batch=512)
    result = Best().search(problem)
    assert set(result.candidates) == set(Best().candidates)
    luck = NormalDist().inv_cdf(1 - 0.05 / (3 * len(result.candidates)))
    for steps in (1, 2, 4):
        candidates = [named[steps] for named in result.candidates.values()]
        squares = endpoint_squares(problem, [*candidates, result.grids[steps]], "report", 2048)
        for other in squares[:-1]:
            difference, error = mean_and_error(other - squares[-1])
            assert difference + luck * error >= 0
        decision = result.decisions[steps]
        assert decision["from"] in result.candidates
        assert decision["moved"] == (result.grids[steps] not in candidates)
    assert result.decisions[4]["moved"]
    assert result.decisions[4]["difference"] < -2.3 * result.decisions[4]["standard_error"]
    assert not result.decisions[1]["moved"]


def test_moved_timesteps_that_fresh_noise_does_not_confirm_are_dropped(monkeypatch):
    worse = grids.Grid((0.0, 0.01, 1.0))
    monkeypatch.setattr(descent, "descend", lambda problem, grid, role, count: worse)
    best = Best(candidates=("uniform", "edm"), noises=512)
    result = best.search(about(budgets=(2,), batch=512))
    assert result.grids[2] == grids.uniform(2)
    assert result.decisions[2]["from"] == "uniform"
    assert not result.decisions[2]["moved"]
    assert result.decisions[2]["difference"] > 0


def test_without_polish_the_best_candidate_stands():
    result = Best(candidates=("uniform", "edm", "tan"), polish=False, noises=512).search(
        about(budgets=(4,), batch=512)
    )
    assert result.grids[4] == result.candidates["tan"][4]
    assert result.decisions[4] == {"from": "tan", "moved": False, "difference": 0.0, "standard_error": 0.0}


def test_a_descent_only_goes_down():
    problem, start = about(batch=64), grids.uniform(6)
    found = descend(problem, start, "polish", 64)
    before, after = endpoint_squares(problem, [start, found], "polish", 64).mean(dim=1)
    assert after < before
    assert (found.steps, found.solver, found.times[0]) == (6, "euler", 0.0)


def test_best_reports_its_cost_before_it_starts():
    listener, asked = Listener(), []

    def velocity(x, t):
        asked.append(len(listener.notes))
        return x * 0

    problem = about(FieldFlow(velocity), budgets=(2,), batch=512, progress=listener, truth_steps=4)
    best = Best(candidates=("uniform", "bellman"), noises=512)
    best.search(problem)
    assert f"up to about {best.velocities(problem):,} network calls" in listener.notes[0]
    assert set(asked) == {1}
    assert all(total == done for parts in listener.totals.values() for total, done in parts)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"noises": 511}, "noises must be 512 or more, or the choice overfits them; got 511"),
        ({"candidates": ()}, "candidates names no search; there are: bellman"),
        (
            {"candidates": ("uniform", "coordinate_descent")},
            "candidates: unknown candidate 'coordinate_descent'",
        ),
        ({"candidates": ("edm", "edm")}, "names a search twice"),
    ],
)
def test_options_that_cannot_be(options, told):
    with pytest.raises(UserError, match=told):
        Best(**options)


def test_candidates_refuse_budgets_that_are_too_large_for_them():
    with pytest.raises(UserError, match="budget 65 does not fit a fine grid of 60 steps"):
        Best().check([65], "euler")
    Best(candidates=("uniform", "tan")).check([65], "euler")


def test_every_noise_counts_the_same_whatever_its_batch():
    squares = torch.arange(10, dtype=torch.float64)
    mean, error = mean_and_error(squares)
    assert mean == 4.5
    assert error == pytest.approx((squares.var() / 10).sqrt().item())
