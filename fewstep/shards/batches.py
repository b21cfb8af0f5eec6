"""Batches: an endless, shuffled sequence of batches in which any step can be asked for directly."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards.ahead import AHEAD_BYTES, Ahead
from fewstep.shards.fields import decode, empty
from fewstep.shards.read import Shards

WINDOW = 65536  # samples at most among which those of a batch are chosen
WINDOW_BYTES = 2**31  # that they take at most, as stored


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
    shuffled within a window of some shards, and the shards are dealt to windows again in each epoch. A
    batch may straddle two epochs.

    A thread reads the next window while one is in use. Other processes can make batches ahead, which changes
    nothing else, but each reads every window:
    `torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(step, steps), num_workers=2)`.

    Args:
        shards: the samples.
        seed: chooses the order.
        size: samples in a batch, those of all ranks together.
        rank: which equal part of each batch this process gets.
        ranks: number of processes that share a batch.
        window: samples among which those of a batch are chosen, fewer if they take more than WINDOW_BYTES;
            one shard is kept even if it has more. See `bytes_in_memory` for what is in memory.

    Raises:
        UserError: if the size is below 1 or the ranks can't share a batch equally.
    """

    def __init__(
        self, shards: Shards, *, seed: int, size: int, rank: int = 0, ranks: int = 1, window: int = WINDOW
    ) -> None:
        if size < 1 or size % ranks:
            raise UserError(
                f"a batch of {size} samples can't be shared equally by {ranks} processes; set train.batch to "
                f"a multiple of {ranks}, or FEWSTEP_PROCESSES to a divisor of {size}"
            )
        assert 0 <= rank < ranks
        self.shards, self.seed, self.size = shards, seed, size
        self.window = min(window, most_in_memory(bytes_of_sample(shards)))
        self.rank, self.share = rank, size // ranks
        # What was used last, kept because the next step most likely wants it too.
        self._plan: tuple[int, list[Window]] | None = None
        self._order: tuple[Window, Tensor] | None = None
        self._memory: Ahead | None = None
        self._numbers: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to read the same batches: no tensors, and no thread.

        torch shares the memory of tensors that it sends, so workers would overwrite one another's window.
        """
        used_last = dict.fromkeys(("_plan", "_order", "_memory", "_numbers"))
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
            self._plan = epoch, self._planned(epoch)
        return self._plan[1]

    def _planned(self, epoch: int) -> list[Window]:
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
        return [*windows, Window(epoch, len(windows), start, stop, tuple(sorted(filling)))]

    def _after(self, window: Window) -> Window:
        """Return the window that follows one."""
        rest = self._windows(window.epoch)[window.number + 1 :]
        return rest[0] if rest else self._planned(window.epoch + 1)[0]

    def _rows(self, window: Window) -> Tensor:
        """Return the shuffled rows of the window's samples."""
        if self._order is None or self._order[0] != window:
            index = window.epoch * len(self.shards.files) + window.number
            order = randomness.permutation("shuffle samples", self.seed, index, window.stop - window.start)
            self._order = window, torch.from_numpy(order)
        return self._order[1]

    def _samples(self, window: Window) -> tuple[dict[str, Tensor], Tensor]:
        """Return the window's samples, as stored, in the order of its shards, and their numbers."""
        if self._memory is None:
            longest = max(self.window, *(file.samples for file in self.shards.files))
            self._memory = Ahead(self.shards, min(longest, self.shards.samples))
        held = self._memory.held
        if held is None or held.shards != window.shards or self._numbers is None:
            held = self._memory.hold(window.shards)
            self._numbers = self.shards.numbers(window.shards)
            self._memory.begin(self._after(window).shards)
        return held.room, self._numbers


def bytes_of_sample(shards: Shards) -> int:
    """Return the bytes of a sample as it is stored."""
    return sum(tensor.nbytes for tensor in empty(shards.fields, 1).values())


def most_in_memory(sample_bytes: int) -> int:
    """Return how many samples of that size a window may have."""
    return max(1, WINDOW_BYTES // max(1, sample_bytes))


def bytes_in_memory(samples: int, sample_bytes: int, window: int = WINDOW) -> int:
    """Return the bytes of a set that batches keep in memory: two windows, unless one is all or very large."""
    window = min(window, most_in_memory(sample_bytes))
    held = sample_bytes * min(samples, window)
    return held if samples <= window or held > AHEAD_BYTES else 2 * held
