"""Samplers are refused where a map from noise to data is asked for, and for models that they do not suit."""

import copy
from pathlib import Path

import pytest
import yaml

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())


def refused(section, **settings):
    """Return what is said of the project's own settings with some of one section changed."""
    raw = copy.deepcopy(RAW)
    place = raw
    for name in section.split("."):
        place = place[name]
    place |= settings
    with pytest.raises(UserError) as told:
        checks.check(Params(raw))
    return str(told.value)


def asked(model, sampler, nfe=(8,)):
    return {"model": model, "sampler": sampler, "nfe": list(nfe)}


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("soft", asked("base", {"name": "sde", "strengt": 2}), "'strength'"),
        ("SOFT/", asked("base", "sde"), "evaluate.samplers"),
        (
            "fine",
            asked("base", "sde"),
            "samplers.fine: the report has another entry of that name; rename",
        ),
        ("soft", asked("base", "sde", (8, 8)), "samplers.soft.nfe [8, 8] names a number twice"),
        (
            "soft",
            asked("base", "sde", (1, 8)) | {"last_step": 0.02},
            "samplers.soft.last_step changes nothing of one step; ask for nfe from 2",
        ),
        (
            "soft",
            asked("round1", "sde"),
            "samplers.soft.model 'round1' has no scores, which sampler sde needs",
        ),
        ("soft", asked("boss-4", "sde"), "model: 'boss-4' is trained only at the timesteps of its grid"),
        (
            "soft",
            asked("base", "reinterpolate"),
            "'base' did not learn from pairs, of which each noise",
        ),
        ("soft", asked("base", "heun"), "unknown sampler 'heun'"),
    ],
)
def test_a_sampler_that_does_not_suit_is_refused(name, settings, told):
    assert told in refused("evaluate", samplers={name: settings})


@pytest.mark.parametrize(
    ("section", "setting"),
    [("couple.round1", "solver"), ("search.base", "solver"), ("evaluate", "reference_solver")],
)
def test_what_needs_a_map_takes_no_sampler(section, setting):
    told = refused(section, **{setting: "sde"})
    assert f"{section}.{setting}: sde is a sampler, whose samples are not those of the flow" in told


def test_samplers_that_suit_are_taken():
    raw = copy.deepcopy(RAW)
    raw["evaluate"]["samplers"] = {
        "soft": asked("base", {"name": "sde", "diffusion": "noise"}) | {"last_step": 0.02},
        "again": asked("round1", "reinterpolate"),
    }
    checks.check(Params(raw))
