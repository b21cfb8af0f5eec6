"""Batches: an endless, shuffled sequence of batches in which any step can be asked for directly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards import records
from fewstep.shards.read import Shards


@dataclass(frozen=True)
class Window:
    """A run of positions of one epoch, and the shards whose samples are shuffled to fill it."""

    epoch: int
    number: int
    start: int
    stop: int
    shards: tuple[int, ...]


class Batches:
    """Batches of `size` samples from `shards`: each epoch holds every sample once, in its own order.

    Any step can be asked for directly, so a run resumes exactly without any state. Samples are
    shuffled within a window of some shards, and the shards are dealt to windows anew in each epoch. A
    batch may straddle two epochs.

    Args:
        shards: the samples.
        seed: chooses the order.
        size: samples in a batch, those of all ranks together.
        rank: which equal part of each batch this process gets.
        ranks: number of processes that share a batch.
        window: samples to keep in memory; one shard is kept even if it has more.

    Raises:
        UserError: if the size is below 1 or the ranks can't share a batch equally.
    """

    def __init__(
        self, shards: Shards, *, seed: int, size: int, rank: int = 0, ranks: int = 1, window: int = 65536
    ) -> None:
        if size < 1 or size % ranks:
            raise UserError(f"a batch of {size} samples can't be shared equally by {ranks} processes")
        assert 0 <= rank < ranks
        self.shards, self.seed, self.size, self.window = shards, seed, size, window
        self.rank, self.share = rank, size // ranks
        # What was used last, kept because the next step most likely wants it too.
        self._plan: tuple[int, list[Window]] | None = None
        self._order: tuple[Window, Tensor] | None = None
        self._stored: tuple[tuple[int, ...], dict[str, Tensor]] | None = None

    def at(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return this rank's part of batch number `step`, and its samples' keys.

        The keys, int64 (n, 2), are (seed, number of the sample in the endless sequence); the noise
        drawn for them so differs between epochs.
        """
        first = step * self.size + self.rank * self.share
        stop, position, parts = first + self.share, first, []
        while position < stop:
            epoch, offset = divmod(position, self.shards.samples)
            window = next(w for w in self._windows(epoch) if offset < w.stop)
            take = min(stop - position, window.stop - offset)
            rows = self._rows(window)[offset - window.start :][:take]
            parts.append({name: tensor[rows] for name, tensor in self._samples(window).items()})
            position += take
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return records.decode(batch, self.shards.fields), randomness.keys_of(self.seed, first, stop)

    def _windows(self, epoch: int) -> list[Window]:
        """Return the windows of an epoch, in order."""
        if self._plan is None or self._plan[0] != epoch:
            sizes = [file.samples for file in self.shards.files]
            windows: list[Window] = []
            filling: list[int] = []
            start = stop = 0
            for shard in randomness.permutation("shuffle shards", self.seed, epoch, len(sizes)).tolist():
                if filling and stop - start + sizes[shard] > self.window:
                    windows.append(Window(epoch, len(windows), start, stop, tuple(sorted(filling))))
                    filling, start = [], stop
                filling.append(shard)
                stop += sizes[shard]
            windows.append(Window(epoch, len(windows), start, stop, tuple(sorted(filling))))
            self._plan = epoch, windows
        return self._plan[1]

    def _rows(self, window: Window) -> Tensor:
        """Return the shuffled rows of the window's samples."""
        if self._order is None or self._order[0] != window:
            index = window.epoch * len(self.shards.files) + window.number
            order = randomness.permutation("shuffle samples", self.seed, index, window.stop - window.start)
            self._order = window, torch.from_numpy(order)
        return self._order[1]

    def _samples(self, window: Window) -> dict[str, Tensor]:
        """Return the window's samples, as stored, in the order of its shards."""
        if self._stored is None or self._stored[0] != window.shards:
            self._stored = None  # so that two windows are never in memory
            parts = [self.shards.read_stored(number) for number in window.shards]
            tensors = {name: torch.cat([part[name] for part in parts]) for name in self.shards.fields}
            self._stored = window.shards, tensors
        return self._stored[1]
