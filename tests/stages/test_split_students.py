"""Students whose blocks are split between the two times of a step: which settings go together."""

import re

import pytest
from test_across_sections import ANY_STEP, changed

from fewstep.errors import UserError
from fewstep.methods.flow_map import FlowMap
from fewstep.model import ModelConfig, build
from fewstep.training.needed_inputs import with_needed
from stages.settings.params import Params
from stages.settings.students import wrong_students

DIT = {"pretrain__base__model": {"name": "dit", "width": 32, "depth": 3}, "reflow__round1__model": None}


def told(**changes):
    return wrong_students(Params(changed(**ANY_STEP | {"distill__any_at_step__split_after": 2} | changes)))


def test_a_flow_map_of_a_transformer_may_be_split():
    assert not told(**DIT)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, r"any-step\.split_after is for networks such as dit, and unet is none; set it to null"),
        (
            DIT | {"distill__any_at_step__split_after": 4},
            r"any-step: dit: split_after 4 of 3 blocks; set it from 1 to 3",
        ),
        (
            {"distill__any_at_step__model": {"name": "dit", "depth": 1}},
            r"any-step: dit: split_after 2 of 1 blocks; set it from 1 to 1",
        ),
        (
            DIT | {"distill__one_at_step__split_after": 2},
            r"one-step\.split_after is for flow maps, and method sim trains none; set it to null",
        ),
        (
            DIT
            | {
                "distill__again": {
                    **ANY_STEP["distill__any_at_step"],
                    "init": "any-step",
                    "split_after": 1,
                }
            },
            r"again\.split_after: init 'any-step' is given the end of a step already; set it to null",
        ),
    ],
)
def test_what_can_not_be_split_is_told_before_any_work(changes, problem):
    (said,) = told(**changes)
    assert re.match(rf"distill\.{problem}", said)


def test_a_model_that_says_itself_that_it_takes_two_times_is_not_split():
    architecture = {"name": "dit", "width": 16, "heads": 2, "depth": 2}
    config = ModelConfig(architecture=architecture, shape=(1, 4, 4))
    split = with_needed(build(config, seed=0), FlowMap().needs, split_after=1, seed=0)
    assert split.config.architecture == {**architecture, "second_time": True, "split_after": 1}
    assert with_needed(split, FlowMap().needs, split_after=None, seed=0) is split
    with pytest.raises(UserError, match="init is given the end of a step already; set split_after to null"):
        with_needed(split, FlowMap().needs, split_after=1, seed=0)
