"""Prefetch: random numbers of samples that are drawn before they are asked for.

They depend on stream and keys alone, so they are the same whoever draws them, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    from torch import Tensor

More = ParamSpec("More")
Request = tuple[Callable[..., "Tensor"], str, tuple[object, ...], tuple[tuple[str, object], ...]]
"""What is drawn of a sample: by what, of which stream, and the further arguments."""


class Prefetched:
    """Random numbers of the samples that `keys` names, drawn at once.

    Args:
        keys: int64 (n, 2).
        wanted: what is drawn; what is asked for beside it is added, for those who draw it for other samples.
    """

    def __init__(self, keys: Tensor, wanted: set[Request]) -> None:
        self.keys, self.wanted = keys, wanted
        asked = list(wanted)  # at one stroke, for another thread may add to it
        self.numbers = {
            request: request[0](request[1], keys, *request[2], **dict(request[3])) for request in asked
        }

    @contextmanager
    def offered(self, keys: Tensor, rows: slice) -> Iterator[None]:
        """In this context give the numbers of these rows to those who ask with `keys`, the very tensor."""
        token = _offer.set((self, keys, rows))
        try:
            yield
        finally:
            _offer.reset(token)


_offer: ContextVar[tuple[Prefetched, Tensor, slice] | None] = ContextVar("offer", default=None)


def prefetchable(
    draw: Callable[Concatenate[str, Tensor, More], Tensor],
) -> Callable[Concatenate[str, Tensor, More], Tensor]:
    """Have what a function draws by a stream and keys taken from what is offered; it must not be changed."""

    @wraps(draw)
    def drawn(stream: str, keys: Tensor, *more: More.args, **named: More.kwargs) -> Tensor:
        offer = _offer.get()
        if offer is None or offer[1] is not keys:
            return draw(stream, keys, *more, **named)
        prefetched, _, rows = offer
        request: Request = (draw, stream, more, tuple(named.items()))
        if request in prefetched.numbers:
            return prefetched.numbers[request][rows]
        prefetched.wanted.add(request)
        return draw(stream, keys, *more, **named)

    return drawn
