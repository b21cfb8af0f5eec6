"""Libraries that an extra of fewstep brings: what to say when one is missing."""

from collections.abc import Callable
from typing import NoReturn

from fewstep.errors import UserError


def brought_by(extra: str, *, what: str, library: str) -> Callable[[Exception], NoReturn]:
    """Return the `error_callback` of etils' lazy_imports for a library that an extra brings.

    Args:
        extra: The extra of the package fewstep.
        what: What needs the library.
        library: Its name for pip.
    """

    def refuse(error: Exception) -> NoReturn:
        raise UserError(f"{what} needs {library}: pip install 'fewstep[{extra}]'") from error

    return refuse
