"""Ahead: shards in memory, and the next ones, which a thread reads while those are in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Thread

from torch import Tensor

from fewstep.shards.fields import empty
from fewstep.shards.read import Shards

AHEAD_BYTES = 2**32  # of memory that is taken to read ahead, at most


@dataclass(eq=False)
class Reading:
    """Shards on their way into memory."""

    shards: tuple[int, ...]
    """Their numbers."""
    room: dict[str, Tensor]
    """The stored fields, dense tensors, whose first rows are those of the shards."""
    whole: bool = False
    thread: Thread | None = field(default=None, repr=False)


class Ahead:
    """Some shards in memory, the held ones, and the next, which are read meanwhile if one says which.

    Two memories take turns: getting a new one from the system takes longer than reading. The thread dies with
    the process, since what is read ahead may never be used.

    Args:
        shards: the set.
        samples: that each of the memories has room for.
    """

    def __init__(self, shards: Shards, samples: int) -> None:
        self.shards, self.samples = shards, samples
        self.held: Reading | None = None
        self._coming: Reading | None = None
        self._free: list[dict[str, Tensor]] = []

    def hold(self, wanted: tuple[int, ...]) -> Reading:
        """Return shards that are all there: those that were begun, or what is read now.

        Shards that could not be read ahead are tried again here.

        Raises:
            UserError: if a shard is missing, damaged, or not the one that was written; nothing is held then.
        """
        if self.held is not None:
            self._free.append(self.held.room)
        self.held = None
        coming, self._coming = self._coming, None
        if coming is not None:
            assert coming.thread is not None
            coming.thread.join()
        if coming is None or coming.shards != wanted or not coming.whole:
            self._free += [] if coming is None else [coming.room]
            coming = Reading(wanted, self._room())
            try:
                self.shards.read_into(coming.room, wanted)
            except BaseException:
                self._free.append(coming.room)
                raise
        self.held = coming
        return coming

    def begin(self, shards: tuple[int, ...]) -> None:
        """Begin to read the shards that will be wanted next, unless they are held or take too much memory."""
        assert self.held is not None
        assert self._coming is None
        size = sum(tensor.nbytes for tensor in self.held.room.values())
        if shards != self.held.shards and size <= AHEAD_BYTES:
            self._coming = Reading(shards, self._room())
            self._coming.thread = Thread(target=self._read, args=[self._coming], name="shards", daemon=True)
            self._coming.thread.start()

    def _room(self) -> dict[str, Tensor]:
        return self._free.pop() if self._free else empty(self.shards.fields, self.samples)

    def _read(self, coming: Reading) -> None:
        """Read shards in the thread; `hold` tells what is wrong with them."""
        try:
            self.shards.read_into(coming.room, coming.shards)
        except Exception:
            return
        coming.whole = True
