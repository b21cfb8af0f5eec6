"""Stages that wait for each other are refused before any work."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from fewstep.errors import UserError
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())


def two_rounds():
    """Return settings with a second round of reflow."""
    raw = copy.deepcopy(RAW)
    for section in ("couple", "reflow"):
        raw[section]["round2"] = copy.deepcopy(raw[section]["round1"])
    return raw


@pytest.mark.parametrize(
    ("section", "setting", "message"),
    [
        (
            "couple",
            {"round1": "round1"},
            r"^  couple\.round1\.model 'round1' makes a cycle: .*couple@round1, which needs reflow@round1"
            r".*; name a model made before, such as a teacher$",
        ),
        ("couple", {"round1": "round2", "round2": "round1"}, r"couple\.round1\.model 'round2'.* cycle"),
        ("couple", {"round1": "round2", "round2": "round1"}, r"couple\.round2\.model 'round1'.* cycle"),
        ("reflow", {"round1": "round2", "round2": "round1"}, r"reflow\.round1\.init 'round2'.* cycle"),
    ],
)
def test_stages_that_wait_for_each_other_are_refused(section, setting, message):
    raw = two_rounds()
    checks.check(Params(raw))
    for key, name in setting.items():
        raw[section][key]["model" if section == "couple" else "init"] = name
    with pytest.raises(UserError) as caught:
        checks.check(Params(raw))
    (line,) = str(caught.value).splitlines()[1:]
    assert re.search(message, line)
