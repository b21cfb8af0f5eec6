"""Helper of the architectures: refuses numbers below 1."""

from fewstep.errors import UserError


def must_be_positive(model: str, **numbers: float) -> None:
    """Refuse options of an architecture that are below 1.

    Raises:
        UserError: naming the first of them.
    """
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{model}: {name} must be 1 or more, got {number}")
