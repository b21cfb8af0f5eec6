"""Whether a flow stays among the finite numbers; where it leaves them, and with which samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.flow import WrappedFlow, batch_times
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


REMEDY = "take more steps or less guidance, or another model"
IN_NOISE = " in the noise"
"""The step at which noise is not finite: before the first."""


class NotFiniteError(UserError):
    """A state or a velocity that holds NaN or infinity.

    Attributes:
        rows: the samples of the batch that do, in order.
        t: the canonical time at which they do.
    """

    def __init__(self, what: str, rows: list[int], t: float, step: str = "") -> None:
        remedy = "take other noise" if step == IN_NOISE else REMEDY
        super().__init__(f"at t = {t:.4g} the {what} is not finite{step}; {remedy}")
        self.rows, self.t = rows, t


class Finite(WrappedFlow):
    """A flow that is watched: a velocity that is not finite, or asked for where x is not, is refused."""

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow.

        Raises:
            NotFiniteError: at the first time at which a sample's state or velocity is not finite.
        """
        velocity = self.flow(x, t, **conditions)
        refuse_not_finite("state", x, t)
        refuse_not_finite("velocity", velocity, t)
        return velocity


def refuse_not_finite(what: str, values: Tensor, t: Tensor | float, step: str = "") -> None:
    """Refuse `values`, (batch, *shape), that are not all finite.

    Args:
        what: they are, for the message.
        values: states or velocities.
        t: when they are, a number or (batch,).
        step: in which step they are, to end the message with.

    Raises:
        NotFiniteError: with the time of the first bad sample.
    """
    rows = rows_not_finite(values)
    if rows:
        raise NotFiniteError(what, rows, float(batch_times(t, values)[rows[0]]), step)


def rows_not_finite(values: Tensor) -> list[int]:
    """Return the samples of `values`, (batch, *shape), that are not finite."""
    finite = values.isfinite()
    if finite.all():  # one answer from the device, the usual one
        return []
    return torch.nonzero(~finite.reshape(len(values), -1).all(1)).flatten().tolist()


def all_finite(values: Tensor) -> bool:
    """Return whether no number is NaN or infinite, told by the least and the greatest.

    That takes a fraction of the time of `isfinite`, and no memory of the size of `values`.
    """
    ends = torch.stack(values.aminmax()) if values.is_floating_point() and values.numel() else values
    return bool(ends.isfinite().all())
