"""Samples that are followed batch by batch; one that leaves the finite numbers is named, and when it did."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from fewstep.errors import UserError
from fewstep.finite import Finite, NotFiniteError, rows_not_finite
from fewstep.flow import Flow

Follow = Callable[[Flow, Tensor, dict[str, Tensor]], Tensor]


def followed(
    follow: Follow,
    flow: Flow,
    samples: Iterable[tuple[Tensor, dict[str, Tensor]]],
    *,
    kind: str,
    first: int,
) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Yield batches of noise and conditions with what `follow` makes of them.

    Args:
        follow: returns it, (n, ...), of the flow, the noise (n, *shape) and the conditions.
        flow: the flow.
        samples: the batches, see fewstep.draws.
        kind: what a sample is called.
        first: the number of the first one.

    Yields:
        Noise, conditions and what was made.

    Raises:
        UserError: if something made is not finite; the message has the sample's number, and the time.
    """
    for noise, conditions in samples:
        yield noise, conditions, _finite(follow, flow, noise, conditions, kind, first)
        first += len(noise)


def _finite(
    follow: Follow, flow: Flow, noise: Tensor, conditions: dict[str, Tensor], kind: str, first: int
) -> Tensor:
    """Return what is made of one batch; only if it is bad is it made again, under watch."""
    try:
        made = follow(flow, noise, conditions)
        bad = rows_not_finite(made)
        if not bad:
            return made
    except NotFiniteError as error:
        bad = error.rows
    try:
        follow(Finite(flow), noise, conditions)
        raise NotFiniteError("state", bad, 1.0)  # no velocity was asked for there
    except NotFiniteError as error:
        others = len({*bad, *error.rows}) - 1
        raise UserError(
            f"{kind} {first + error.rows[0]} (and {others} more of its batch of {len(noise)}) can't be made: "
            f"{error}"
        ) from error
