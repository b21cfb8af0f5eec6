"""Settings of a search of a flow map's steps, which go together or are refused before any work."""

import re

import pytest
from test_across_sections import ANY_STEP, GUIDED, changed

from stages.settings import checks
from stages.settings.params import Params
from stages.settings.searched import wrong_searched

MAP = {"teacher": "base", "method": "coordinate_descent", "budgets": [2, 4]}
GUIDED_STEPS = GUIDED | {"search__base__guidance": 2.0}


def params(*, search, **changes):
    return Params(changed(**ANY_STEP, **changes, search__any_at_step=MAP | search))


@pytest.mark.parametrize("teacher", ["any-step", "base"])
def test_the_steps_of_a_flow_map_are_searched_for_its_teacher_or_itself(teacher):
    checks.check(params(search={"teacher": teacher}))
    guidance = 2.0 if teacher == "base" else 1.0  # what it learnt of its teacher
    assert not wrong_searched(params(search={"teacher": teacher, "guidance": guidance}, **GUIDED_STEPS))


@pytest.mark.parametrize(
    ("changes", "search", "told"),
    [
        (
            {},
            {"teacher": "round1"},
            r"\.teacher 'round1' must be 'any-step', the model itself or 'base', its ",
        ),
        ({}, {"solver": "heun"}, r"\.solver heun: the steps of a flow map are Euler steps; set it to euler"),
        (
            GUIDED_STEPS,
            {},
            r"\.guidance 1\.0: base then shows guidance 1, and any-step learnt 2; make them eq",
        ),
        (
            GUIDED_STEPS,
            {"teacher": "any-step", "guidance": 2.0},
            r"\.guidance 2\.0 needs a model that was trained with hidden labels",
        ),
    ],
)
def test_what_does_not_go_together_is_told(changes, search, told):
    (problem,) = wrong_searched(params(search=search, **changes))
    assert re.match(rf"search\.any-step{told}", problem)


def test_a_map_of_a_range_of_guidance_is_searched_at_one_of_its_scales():
    ranged = {"distill__any_at_step__method": {"name": "flow_map_distillation", "guidance": [1, 4]}}
    ranged |= {"distill__any_at_step__train_on": "prepare", "evaluate__guidance": {}} | GUIDED
    for teacher in ("any-step", "base"):
        search = {"teacher": teacher, "guidance": 3.0}
        assert not wrong_searched(params(search=search, **ranged))
        (problem,) = wrong_searched(params(search=search | {"guidance": 5.0}, **ranged))
        assert "guidance 5.0 is not among the scales that any-step was trained with, 1 to 4" in problem
