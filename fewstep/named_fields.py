"""Dataclasses made of the fields that a file names."""

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from fewstep.errors import UserError

Made = TypeVar("Made")


def made_of(kind: type[Made], told: Any) -> Made:
    """Return a dataclass with these fields, read from a file.

    Raises:
        UserError: if they are no mapping, one is unknown or missing, or its value can't be.
    """
    if not isinstance(told, dict):
        raise UserError("it holds no mapping of names to values")
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if unknown := sorted(told.keys() - known):
        raise UserError(
            f"it has {unknown[0]!r}, which this version of fewstep does not know; install the version that "
            "made it"
        )
    if missing := [name for name in needed if name not in told]:
        raise UserError(f"it lacks {missing[0]!r}; if another version of fewstep made it, install that one")
    try:
        return kind(**told)
    except UserError:
        raise
    except (TypeError, AttributeError, ValueError):
        raise UserError("one of its values has a wrong type; write or copy it again") from None
