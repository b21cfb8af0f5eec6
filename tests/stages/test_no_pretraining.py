"""A chain whose teachers are adopted alone: `pretrain: {}` trains nothing."""

from pathlib import Path

import pytest
import yaml
from students import STRAIGHT

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())
SEARCH = RAW["search"]["base"] | {"teacher": "mine"}


def settings(**sections):
    """Return settings of a chain with an adopted teacher, and these sections."""
    student = STRAIGHT | {"teacher": "mine", "init": "mine", "train_on": "trajectories/mine"}
    chain = {"pretrain": {}, "adopt": {"mine": {"folder": "data/mine"}}, "couple": {}, "reflow": {}}
    chain |= {"search": {"mine": SEARCH}, "trajectories": {"mine": {"samples": 64}}}
    return Params(RAW | chain | {"distill": {"four": student}} | sections)


def test_the_adopted_model_is_what_others_are_compared_with():
    params = settings()
    checks.check(params)
    assert params.inputs("evaluate")["reference"] == "artifacts/models/mine"


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"evaluate": RAW["evaluate"] | {"reference": "base"}},
            r"evaluate\.reference 'base' is no teacher; there are: mine",
        ),
        ({"adopt": {}}, "evaluate compares with a teacher, and there is none: add one to pretrain or adopt"),
        ({"couple": {"a": {"model": "base", "pairs": 9}}}, "'base' is no model; there are: mine"),
        ({"search": RAW["search"]}, r"search\.base: 'base' is no model; there are: mine"),
        ({"search": {}}, r"search is empty, but .* distill read artifacts/search, .*: add search\.mine"),
        (
            {"search": {}, "distill": {}, "trajectories": {}},
            r"search is empty, but evaluate.* read artifacts/search, which no stage .*: add search\.mine",
        ),
        ({"distill": {"four": STRAIGHT}}, r"distill\.four\.teacher 'base' is no model; there are: mine"),
        (
            {
                "adopt": {"mine": {"folder": "data/mine", "noise": {"name": "student_t", "degrees": 128}}},
                "distill": {
                    "four": STRAIGHT
                    | {"method": "dmd", "teacher": "mine", "init": "mine", "train_on": "prepare"}
                },
            },
            r"compares scores, but adopt\.mine\.noise, student_t with 128 degrees, gives no scores",
        ),
        ({"pretrain": None}, r"pretrain should be a mapping of names to settings, such as {}, got null"),
    ],
)
def test_settings_that_need_a_pretrained_model_are_refused(sections, told):
    with pytest.raises(UserError, match=told):
        checks.check(settings(**sections))


def test_a_chain_may_have_no_students():
    checks.check(settings(distill={}, trajectories={}))
