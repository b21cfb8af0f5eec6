import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import grids
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.spacings import SPACINGS, Spacing, all_dividing, dividing

inner_times = st.sets(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=20)


@given(
    inner=inner_times,
    guidance=st.floats(allow_nan=False, allow_infinity=False),
    digest=st.none() | st.text(),
)
def test_json_gives_back_the_very_same_grid(inner, guidance, digest):
    grid = Grid((0.0, *sorted(inner), 1.0), solver="heun", guidance=guidance, model_digest=digest)
    assert Grid.from_json(grid.to_json()) == grid


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((), "two or more"),
        ((1.0,), "two or more"),
        ((0.0, math.nan, 1.0), "finite"),
        ((0.0, 0.5, 0.5, 1.0), "must increase"),
        ((0.0, 0.7, 0.3, 1.0), "must increase"),
        ((-0.1, 1.0), "starts at 0 or later"),
        ((0.0, 0.9), "ends at 1"),
        ((0.0, 1.5), "ends at 1"),
    ],
)
def test_wrong_times_are_refused(times, message):
    with pytest.raises(UserError, match=message) as refusal:
        Grid(times)
    assert str(times) in str(refusal.value)


@pytest.mark.parametrize("guidance", [math.nan, math.inf])
def test_guidance_must_be_finite(guidance):
    with pytest.raises(UserError, match=f"guidance must be finite, got {guidance}"):
        Grid((0, 1), guidance=guidance)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"times": 3}', '{"times": [0, 1], "timesteps": 2}', '{"solver": "euler"}']
)
def test_text_that_is_no_grid_is_refused(text):
    with pytest.raises(UserError, match=r"not a grid|grid times must be numbers"):
        Grid.from_json(text)


@given(steps=st.integers(1, 60), start=st.floats(0, 0.99))
def test_uniform_steps_are_equal(steps, start):
    grid = grids.uniform(steps, start=start)
    assert grid.steps == steps
    for i, time in enumerate(grid.times):
        assert time == pytest.approx(start + (1 - start) * i / steps)


def test_uniform_needs_a_step():
    with pytest.raises(UserError, match="at least one step, got 0"):
        grids.uniform(0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_spaced_steps_keep_to_the_times_a_flow_has(spacing, steps):
    grid = grids.spaced(spacing, steps, start=0.1, end=0.98, solver="ab2")
    assert (grid.steps, grid.solver) == (steps, "ab2")
    assert grid.times[0] == 0.1
    assert grid.times[-2] <= 0.98


def test_an_unknown_spacing_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match=r"unknown spacing 'logsnr'; did you mean 'log_snr'\? .*tan"):
        grids.spaced("logsnr", 3, start=0.0, end=1.0, solver="euler")


def test_nearest_timesteps_finds_indices_and_names_a_time_that_is_missing():
    stored = grids.uniform(10).times
    assert grids.nearest_timesteps(stored, [0.0, 0.3 + 1e-12, 1.0]) == [0, 3, 10]
    with pytest.raises(UserError, match=r"time 0\.25 is not among"):
        grids.nearest_timesteps(stored, [0.0, 0.25])


def test_equal_steps_fit_a_flow_that_ends_before_data():
    assert grids.uniform(4, end=0.9).times == (0, 0.25, 0.5, 0.75, 1)
    assert grids.uniform(40, end=0.9).times[-2:] == (0.9, 1)


def test_settings_name_the_spacings_that_there_are():
    assert set(get_args(Spacing)) == set(SPACINGS)


def test_numbers_of_equal_steps_are_those_that_divide_the_finest():
    assert dividing(8, (1, 3, 4, 8, 16)) == (1, 4, 8)
    assert dividing(None, (1, 3)) == (1, 3)
    assert [all_dividing(finest) for finest in (1, 2, 12)] == ["1", "1 or 2", "1, 2, 3, 4, 6 or 12"]
