import pytest

from fewstep.errors import UserError
from flows.planning import time_limits

STAGES = ["couple@round1", "distill@boss-4", "distill@boss-2"]


def test_how_many_run_at_once_must_be_a_number(monkeypatch):
    monkeypatch.setenv("FEWSTEP_STAGES_AT_ONCE", "3")
    assert time_limits.stages_at_once() == 3
    monkeypatch.setenv("FEWSTEP_STAGES_AT_ONCE", "many")
    with pytest.raises(UserError, match=r"FEWSTEP_STAGES_AT_ONCE.*'many'"):
        time_limits.stages_at_once()


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", {}),
        ("60", dict.fromkeys(STAGES, 60)),
        ("distill=5", {"distill@boss-4": 5, "distill@boss-2": 5}),
        ("60, distill@boss-4=0.5", dict.fromkeys(STAGES, 60) | {"distill@boss-4": 0.5}),
    ],
)
def test_a_limit_is_for_all_stages_or_for_those_named(monkeypatch, text, limits):
    monkeypatch.setenv("FEWSTEP_STAGE_TIMEOUT", text)
    assert time_limits.seconds_allowed(STAGES) == limits


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("soon", "seconds above 0, or stage=seconds, got 'soon'"),
        ("0", "got '0'"),
        ("inf", "got 'inf'"),
        ("distil=5", "there is no stage 'distil'; did you mean 'distill@boss-"),
    ],
)
def test_a_wrong_limit_is_a_users_mistake(monkeypatch, text, told):
    monkeypatch.setenv("FEWSTEP_STAGE_TIMEOUT", text)
    with pytest.raises(UserError, match=told):
        time_limits.seconds_allowed(STAGES)
