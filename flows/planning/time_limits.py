"""Limits from the environment: how many stages run at once, and how long each may take."""

import math
import os
from collections.abc import Iterable

from fewstep import variables
from fewstep.errors import UserError
from stages.settings.messages import suggest

AT_ONCE = "FEWSTEP_STAGES_AT_ONCE"
TIMEOUT = "FEWSTEP_STAGE_TIMEOUT"


def stages_at_once() -> int:
    """Return how many independent stages may run at once: FEWSTEP_STAGES_AT_ONCE, else two.

    Raises:
        UserError: It is no number of stages.
    """
    return variables.count(AT_ONCE, "stages", default=2)


def seconds_allowed(stages: Iterable[str]) -> dict[str, float]:
    """Return how long each limited stage may take, from FEWSTEP_STAGE_TIMEOUT.

    It is a number of seconds for all stages, or a list such as `couple=7200,distill@boss-4=600`; a name
    without a key stands for all keys, and a later entry wins.

    Raises:
        UserError: An entry names no stage, or no number of seconds.
    """
    stages = list(stages)
    limits: dict[str, float] = {}
    for entry in filter(None, os.environ.get(TIMEOUT, "").split(",")):
        name, _, number = entry.strip().rpartition("=")
        named = matching(name, stages) if name else stages
        try:
            seconds = float(number)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise UserError(f"{TIMEOUT} must hold seconds above 0, or stage=seconds, got {entry!r}")
        limits |= dict.fromkeys(named, seconds)
    return limits


def matching(name: str, stages: Iterable[str]) -> list[str]:
    """Return the stages of that name; without a key it stands for all keys.

    Raises:
        UserError: There is none; the message suggests the nearest name.
    """
    stages = list(stages)
    if found := [stage for stage in stages if name in (stage, stage.partition("@")[0])]:
        return found
    raise UserError(f"there is no stage {name!r}; {suggest(name, stages)}")
