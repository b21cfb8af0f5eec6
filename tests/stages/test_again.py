"""Who asks a stage to make its result again: a variable, DVC's command line, or a run of flows."""

from types import SimpleNamespace

import pytest

from fewstep.errors import UserError
from stages.process import again, parent


@pytest.mark.parametrize(
    ("words", "forced"),
    [
        ("dvc repro -f", True),
        ("dvc repro --force distill@boss-4", True),
        ("/usr/bin/python -m dvc repro -sf evaluate", True),
        ("dvc exp run -fv", True),
        ("dvc repro", False),
        ("dvc repro --force-downstream pretrain@base", False),
        ("dvc repro -s boss-f", False),
        ("dvc exp run -S distill.boss-4.train.steps=-f", False),
    ],
)
def test_what_dvc_was_told_to_force_is_made_again(monkeypatch, words, forced):
    monkeypatch.setenv("DVC_STAGE", "evaluate")
    monkeypatch.delenv("FEWSTEP_AGAIN", raising=False)
    monkeypatch.setattr(parent, "starter", lambda: SimpleNamespace(cmdline=words.split))
    assert again.asked() == forced
    monkeypatch.setenv("FEWSTEP_AGAIN", "1")
    assert again.asked()


def test_a_stage_that_a_person_started_is_not_forced(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.delenv("FEWSTEP_AGAIN", raising=False)
    monkeypatch.setattr(parent, "starter", lambda: SimpleNamespace(cmdline=["vi", "-f"].copy))
    assert not again.asked()


def test_a_flow_run_asks_in_its_own_name_and_a_person_without_a_name(monkeypatch):
    for run in ("amber-fox-7d", None):
        for name, value in again.asked_by(run).items():
            monkeypatch.setenv(name, value)
        again.must_be_right()
        assert again.asked()
        assert again.asking_run() == run


@pytest.mark.parametrize("value", ["0", "off", "on", ""])
def test_other_values_of_again_are_refused(monkeypatch, value):
    monkeypatch.setenv("FEWSTEP_AGAIN", value)
    with pytest.raises(UserError, match=f"^FEWSTEP_AGAIN must be 1, .* or unset; got '{value}'$"):
        again.must_be_right()
