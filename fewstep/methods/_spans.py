"""Helpers of the methods that train a flow map: its network, and the steps that it learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.errors import UserError

if TYPE_CHECKING:
    from fewstep.model import Model


def must_take_until(student: Model) -> None:
    """Refuse a student whose network can't be told when a step ends.

    Raises:
        UserError: if its network has no second time.
    """
    if student.config.velocity_until != "any":
        raise UserError(
            "this method trains a network with a second time, the end of a step; "
            "fewstep.timing.with_second_time gives the student one"
        )


def check_share(name: str, share: float) -> None:
    """Check that an option is a share.

    Raises:
        UserError: if it is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"{name} is a share from 0 to 1, got {share}")
