"""Environment variables: numbers and switches, read where they are needed and refused in one way."""

import math
import os
from typing import TypeVar

from fewstep.errors import UserError

Default = TypeVar("Default", int, None)


def count(variable: str, of_what: str, *, default: Default) -> int | Default:
    """Return the number, from 1, that an environment variable holds, or `default` where it is not set.

    Raises:
        UserError: if it is no number from 1.
    """
    asked = os.environ.get(variable)
    if asked is None:
        return default
    if not (asked.isdecimal() and int(asked)):
        raise UserError(f"{variable} must be a number of {of_what} from 1, got {asked!r}")
    return int(asked)


def is_on(variable: str, *, default: bool = False) -> bool:
    """Return whether an environment variable is on, or `default` where it is not set.

    Raises:
        UserError: if it is neither on nor off.
    """
    asked = os.environ.get(variable, "on" if default else "off")
    if asked not in ("on", "off"):
        raise UserError(f"{variable} must be on or off, got {asked!r}")
    return asked == "on"


def checkpoint_seconds() -> float:
    """Return the seconds between two saves of a training: FEWSTEP_CHECKPOINT_SECONDS, or 20.

    Raises:
        UserError: if it is no number from 0.
    """
    text = os.environ.get("FEWSTEP_CHECKPOINT_SECONDS", "20")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"FEWSTEP_CHECKPOINT_SECONDS must be a number of seconds from 0, got {text!r}")
    return seconds
