"""Checks of a source's options, which come from a user's file and may be anything."""

from fewstep.errors import UserError


def check_yes_or_no(name: str, value: object) -> None:
    """Refuse an option that is neither true nor false.

    Raises:
        UserError: naming the option and the value.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name} must be true or false, got {value!r}")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse an option that is no whole number.

    Args:
        name: of the option.
        value: what the user gave.
        least: smallest number allowed.

    Raises:
        UserError: naming the option, the value and what is allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} must be a whole number from {least}, got {value!r}")
