"""Batches: an endless, shuffled sequence of batches in which any step can be asked for directly."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards.fields import decode, empty
from fewstep.shards.read import Shards

WINDOW = 65536  # samples among which those of a batch are chosen


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

    Other processes can read ahead, which changes nothing else, but each reads every window:
    `torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(step, steps), num_workers=2)`.

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
        self, shards: Shards, *, seed: int, size: int, rank: int = 0, ranks: int = 1, window: int = WINDOW
    ) -> None:
        if size < 1 or size % ranks:
            raise UserError(f"a batch of {size} samples can't be shared equally by {ranks} processes")
        assert 0 <= rank < ranks
        self.shards, self.seed, self.size, self.window = shards, seed, size, window
        self.rank, self.share = rank, size // ranks
        # What was used last, kept because the next step most likely wants it too.
        self._plan: tuple[int, list[Window]] | None = None
        self._order: tuple[Window, Tensor] | None = None
        self._room: dict[str, Tensor] | None = None
        self._held: tuple[tuple[int, ...], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to read the same batches: no tensors.

        torch shares the memory of tensors that it sends, so workers would overwrite one another's window.
        """
        used_last = dict.fromkeys(("_plan", "_order", "_room", "_held"))
        return self.__dict__ | used_last

    def __getitem__(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return this rank's part of batch number `step`, and its samples' keys.

        The keys, int64 (n, 2), are (seed, number of the sample in the endless sequence); the noise
        drawn for them so differs between epochs.
        """
        first = step * self.size + self.rank * self.share
        batch, numbers = empty(self.shards.fields, self.share), torch.empty(self.share, dtype=torch.int64)
        filled = 0
        while filled < self.share:
            epoch, offset = divmod(first + filled, self.shards.samples)
            window = next(w for w in self._windows(epoch) if offset < w.stop)
            rows = self._rows(window)[offset - window.start :][: self.share - filled]
            room = slice(filled, filled + len(rows))
            stored, stored_numbers = self._samples(window)
            for name, tensor in stored.items():  # tensor[rows] takes twice as long
                torch.index_select(tensor, 0, rows, out=batch[name][room])
            torch.index_select(stored_numbers, 0, rows, out=numbers[room])
            filled = room.stop
        keys = randomness.keys_of(self.seed, first, first + self.share)
        return decode(batch, self.shards.fields, numbers), keys

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

    def _samples(self, window: Window) -> tuple[dict[str, Tensor], Tensor]:
        """Return the window's samples, as stored, in the order of its shards, and their numbers.

        All windows are read into the same memory: getting it anew from the system takes longer than reading.
        """
        if self._room is None:
            longest = max(self.window, *(file.samples for file in self.shards.files))
            self._room = empty(self.shards.fields, min(longest, self.shards.samples))
        if self._held is None or self._held[0] != window.shards:
            self._held = None  # if reading fails, the memory holds no window
            self.shards.read_into(self._room, window.shards)
            self._held = window.shards, self.shards.numbers(window.shards)
        return self._room, self._held[1]
