"""Looks at students whose distance from the data is known."""

import math
from dataclasses import replace

import pytest
import torch
from watching import Shift, gaussian_monitor, jumping, shifting

from fewstep.errors import UserError
from fewstep.metrics.monitor import Look


def test_the_distance_of_moved_gaussians_is_that_of_their_means():
    looks = [gaussian_monitor(mean=3.0).look(shifting(by), step=by) for by in (3, 2, 1, 0)]
    assert [look.step for look in looks] == [3, 2, 1, 0]
    assert [look.fd for look in looks] == pytest.approx([0, 1, 4, 9], abs=0.4)  # of 400 samples
    recalls = [look.recall for look in looks]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] > 0.95 > 0.9 > recalls[3]
    shares = [look.shares for look in looks]
    assert shares[0] < 0.1
    assert shares == sorted(shares)


def test_a_look_is_the_same_again_and_leaves_the_student_and_the_generator_alone():
    student = shifting(2).train()
    monitor, same, other = gaussian_monitor(), gaussian_monitor(), gaussian_monitor(samples=300)
    before = torch.random.get_rng_state()
    first = monitor.look(student, step=0)
    assert first == monitor.look(student, step=0) == same.look(student, step=0)
    assert first != other.look(student, step=0)
    assert student.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_samples_are_those_of_the_grid_of_the_student():
    asked = []

    class Watching(Shift):
        def forward(self, x, t, **conditions):
            asked.append(len(x))
            return super().forward(x, t)

    student = shifting()
    student.network = Watching()
    monitor = gaussian_monitor(samples=400)
    (grid,) = monitor.grids(student)
    assert monitor.sample(student, grid).shape == (400, 2)
    assert sum(asked) == 400  # one call each


def test_samples_that_are_not_finite_are_infinitely_far():
    look = gaussian_monitor().look(shifting(math.inf), step=7)
    assert (look.step, look.fd, look.recall) == (7, math.inf, 0)


def test_a_student_of_any_number_is_looked_at_with_several():
    student = jumping(3)
    one, four = (gaussian_monitor(mean=3.0, nfe=(nfe,)).look(student, step=5) for nfe in (1, 4))
    assert (one.fd, four.fd) == (pytest.approx(9, abs=0.6), pytest.approx(0, abs=0.4))
    both = gaussian_monitor(mean=3.0).look(student, step=5)
    assert both == Look(5, (one.fd + four.fd) / 2, one.recall, one.shares)
    assert one.recall < four.recall
    assert one.shares > four.shares
    grids = gaussian_monitor(nfe=(2, 3)).grids(student)
    assert [grid.times for grid in grids] == [(0, 1 / 2, 1), (0, 1 / 3, 2 / 3, 1)]


def test_a_student_of_equal_steps_is_looked_at_with_those_that_it_knows():
    student = jumping(3)
    student.config = replace(student.config, equal_steps=2)
    monitor = gaussian_monitor()
    assert [grid.steps for grid in monitor.grids(student)] == [1]
    monitor.look(student, step=0)
    with pytest.raises(UserError, match="the grid has 4: take 1 or 2 equal ones"):
        gaussian_monitor(nfe=(4,)).look(student, step=0)


def test_a_model_without_a_grid_is_refused():
    from recorded import student

    with pytest.raises(UserError, match="on their own grid, or at flow maps; this model has no grid"):
        gaussian_monitor().look(student(), step=0)
