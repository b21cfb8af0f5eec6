"""The one exception that means: the user can mend this, and here is how; and what others say, in short."""

from collections.abc import Sequence

from fewstep.secrets import scrub


class UserError(ValueError):
    """A mistake in settings, data or files; the message names the thing and the remedy.

    Command-line entry points print the message alone; any other exception is a bug of ours and
    keeps its traceback. It is shown, logged and recorded, so it holds no secret of an address or a variable.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(scrub(message))


def and_others(names: Sequence[str], what: str) -> str:
    """Return the first of some names, and how many more there are, such as `a and 2 other weights`."""
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} and {more} other {what}{'s' if more > 1 else ''}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip()
