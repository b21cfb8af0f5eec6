"""Settings of a refiner: it has its teacher beside it, and is taken for a flow nowhere."""

import pytest
from test_across_sections import changed

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.models import flows
from stages.settings.params import Params

REFINER = {
    "distill__turbo": {
        "method": "refiner",
        "init": "base",
        "model": {"name": "unet", "width": 8, "multipliers": [1, 2]},
        "teacher": "base",
        "train_on": "prepare",
        "nfe": "any",
        "train": {"steps": 10},
    },
}


def asked(**changes):
    entry = {"model": "base", "refiner": "turbo", "blocks": [[1, 2, 3]]}
    return REFINER | {"evaluate__refined": {"fast": entry | changes}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            asked(refiner="boss-4"),
            r"evaluate\.refined\.fast\.refiner 'boss-4' is no refiner; there are: turbo",
        ),
        (asked(model="round1"), r"fast\.model 'round1' is not what turbo was trained beside; set it to base"),
        (
            asked(blocks=[[0, 0, 3]]),
            r"evaluate\.refined\.fast\.blocks: blocks 0 0 3: the first or second number must",
        ),
        (asked(blocks=[[1, 0, 0], [1, 0, 0]]), r"evaluate\.refined\.fast\.blocks name steps twice"),
        (
            REFINER | {"evaluate__refined": {"fine": asked()["evaluate__refined"]["fast"]}},
            r"evaluate\.refined\.fine: the report has another entry of that name",
        ),
        (
            REFINER | {"distill__turbo__init": "round1"},
            r"distill\.turbo\.init 'round1' must be 'base', its teacher",
        ),
        (REFINER | {"distill__turbo__model": None}, r"distill\.turbo\.model null: a refiner has an arch"),
        (REFINER | {"distill__turbo__nfe": 4}, r"turbo\.nfe 4: method refiner trains for any number"),
        (
            REFINER | {"distill__turbo__monitor": {}},
            r"turbo\.monitor looks at samples of a student, and a",
        ),
        (
            REFINER | {"couple__round1__model": "turbo"},
            r"couple\.round1\.model: 'turbo' is a refiner, which is no flow without its teacher",
        ),
        (
            REFINER | {"distill__endpoint__init": "turbo"},
            r"distill\.endpoint\.init 'turbo' is a refiner, which is no flow without its teacher",
        ),
    ],
)
def test_a_refiner_is_told_apart_from_students_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        checks.check(Params(changed(**settings)))


def test_a_refiner_beside_its_teacher_is_no_mistake():
    params = Params(changed(**asked()))
    checks.check(params)
    assert "turbo" not in flows(params)
