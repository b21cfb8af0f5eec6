import copy
import threading

import pytest
import torch
from making import write
from torch import Tensor
from torch.utils.data import DataLoader

from fewstep.errors import UserError
from fewstep.shards import Batches, Shards, ahead
from fewstep.shards import batches as batches_module
from fewstep.shards.batches import bytes_in_memory


def keys_seen(batches, steps):
    return torch.cat([batches[step][0]["number"] for step in steps]).tolist()


@pytest.fixture
def numbered(tmp_path):
    return write(tmp_path, 250, 40, lambda start, stop: {"number": torch.arange(start, stop)})


@pytest.mark.parametrize("window", [1, 90, 65536])
def test_every_epoch_holds_each_sample_once_in_its_own_order(numbered, window):
    batches = Batches(numbered, seed=3, size=64, window=window)
    seen = keys_seen(batches, range(16))  # 1024 samples: four epochs and a bit
    epochs = [seen[start : start + 250] for start in range(0, 1000, 250)]
    assert all(sorted(epoch) == list(range(250)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = keys_seen(Batches(numbered, seed=4, size=64, window=window), range(4))
    assert other != seen[:256]


def test_a_window_mixes_the_samples_of_its_shards(numbered):
    seen = keys_seen(Batches(numbered, seed=0, size=50, window=100), [0])
    assert len({number // 40 for number in seen}) == 2  # a window of two shards, mixed
    assert seen != sorted(seen)


@pytest.mark.parametrize("window", [90, 65536])
def test_a_step_does_not_depend_on_the_steps_before(numbered, window):
    walked = Batches(numbered, seed=0, size=64, window=window)
    in_order = [walked[step][0]["number"].tolist() for step in range(10)]
    for step in (9, 3, 4, 0):
        assert walked[step][0]["number"].tolist() == in_order[step]
        assert Batches(numbered, seed=0, size=64, window=window)[step][0]["number"].tolist() == in_order[step]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_a_batch(numbered, ranks):
    whole = Batches(numbered, seed=0, size=64, window=90)
    parts = [Batches(numbered, seed=0, size=64, window=90, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(5):
        numbers, keys = whole[step]
        shared = [part[step] for part in parts]
        assert torch.equal(torch.cat([batch["number"] for batch, _ in shared]), numbers["number"])
        assert torch.equal(torch.cat([keys for _, keys in shared]), keys)


def test_keys_never_repeat(numbered):
    batches = Batches(numbered, seed=5, size=64)
    assert batches[3][1].tolist() == [[5, 3 * 64 + position] for position in range(64)]


def test_a_batch_may_hold_several_epochs(numbered):
    batch, _ = Batches(numbered, seed=0, size=500)[0]
    assert sorted(batch["number"].tolist()) == sorted(2 * list(range(250)))


def test_uneven_batches_are_refused(numbered):
    with pytest.raises(UserError, match=r"10 samples.*3 processes"):
        Batches(numbered, seed=0, size=10, rank=0, ranks=3)
    with pytest.raises(UserError, match="0 samples"):
        Batches(numbered, seed=0, size=0)


def test_memory_is_bounded_by_the_window(numbered, monkeypatch):
    read, held = Shards.read_into, []
    monkeypatch.setattr(
        Shards, "read_into", lambda self, room, shards: held.extend(shards) or read(self, room, shards)
    )
    batches = Batches(numbered, seed=0, size=10, window=90)
    memory = set()
    for step in range(50):
        batches[step]
        memory.add(batches._memory.held.room["number"].data_ptr())
    assert sorted(held[:7]) == sorted(held[7:14]) == list(range(7))  # each shard once an epoch
    assert len(batches._memory.held.room["number"]) == 90
    assert len(memory) == 2
    assert [bytes_in_memory(samples, 8, 90) for samples in (250, 90, 20)] == [8 * 180, 8 * 90, 8 * 20]
    assert bytes_in_memory(250, 2**26, 90) == 2 * 2**31  # a window of 32 samples, which take 2 GiB, twice
    assert bytes_in_memory(250, 2**33, 90) == 2**33  # one sample, and nothing is read ahead


def test_a_window_of_large_samples_has_fewer(numbered, monkeypatch):
    small = Batches(numbered, seed=0, size=10, window=90)
    monkeypatch.setattr(batches_module, "WINDOW_BYTES", 8 * 40)
    large = Batches(numbered, seed=0, size=10)
    fewer = Batches(numbered, seed=0, size=10, window=40)
    steps = range(60)
    assert keys_seen(large, steps) == keys_seen(fewer, steps) != keys_seen(small, steps)
    assert len(large._memory.held.room["number"]) == 40
    monkeypatch.setattr(batches_module, "WINDOW_BYTES", 8 * 90)
    assert keys_seen(Batches(numbered, seed=0, size=10), steps) == keys_seen(small, steps)


def test_a_set_that_fits_is_read_once_and_nothing_is_read_ahead(numbered, monkeypatch):
    read, held = Shards.read_into, []
    monkeypatch.setattr(
        Shards, "read_into", lambda self, room, shards: held.append(shards) or read(self, room, shards)
    )
    keys_seen(Batches(numbered, seed=0, size=10), range(50))
    assert held == [tuple(range(7))]


def test_windows_that_take_much_memory_are_not_read_ahead(slow, monkeypatch):
    numbered, go, readers, expected = slow
    go.set()
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 90 * 8 - 1)
    batches = Batches(numbered, seed=0, size=10, window=90)
    assert [batches[step][0]["number"].tolist() for step in range(25)] == expected
    assert all(own for own, _ in readers)


@pytest.fixture
def slow(numbered, monkeypatch):
    """The set, read by a thread only when the event is set; and who read what."""
    read, go, readers = Shards.read_into, threading.Event(), []

    def slowly(self, room, shards):
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(30)
        read(self, room, shards)
        readers.append((threading.current_thread() is threading.main_thread(), shards))

    plain = Batches(numbered, seed=0, size=10, window=90)
    expected = [plain[step][0]["number"].tolist() for step in range(25)]
    monkeypatch.setattr(Shards, "read_into", slowly)
    yield numbered, go, readers, expected
    go.set()


def test_the_next_window_is_read_while_one_is_in_use(slow):
    numbered, go, readers, expected = slow
    batches = Batches(numbered, seed=0, size=10, window=90)
    sizes = [window.stop - window.start for window in batches._windows(0)]
    steps = sizes[0] // 10
    assert [batches[step][0]["number"].tolist() for step in range(steps)] == expected[:steps]
    assert [own for own, _ in readers] == [True]  # the thread has read nothing yet
    go.set()
    assert [batches[step][0]["number"].tolist() for step in range(steps, 25)] == expected[steps:]
    assert [own for own, _ in readers[: len(sizes)]] == [True] + [False] * (len(sizes) - 1)


def test_a_step_elsewhere_does_not_take_what_was_read_ahead_for_its_own(slow):
    numbered, go, readers, expected = slow
    batches = Batches(numbered, seed=0, size=10, window=90)
    go.set()
    for step in (0, 20, 3, 12, 24, 1):
        assert batches[step][0]["number"].tolist() == expected[step]
    assert sum(own for own, _ in readers) > 1


def test_an_error_of_reading_ahead_is_raised_at_its_step_and_the_read_is_tried_again(numbered, tmp_path):
    batches = Batches(numbered, seed=0, size=10, window=40)
    plain = Batches(numbered, seed=0, size=10, window=40)
    expected = [plain[step][0]["number"].tolist() for step in range(9)]
    first, second = (window.shards[0] for window in batches._windows(0)[:2])
    path = tmp_path / f"shard-{second:05d}.tar"
    path.rename(tmp_path / "away")
    steps = len(numbered.ranges[first]) // 10
    assert [batches[step][0]["number"].tolist() for step in range(steps)] == expected[:steps]
    with pytest.raises(UserError, match="is missing"):
        batches[steps]
    (tmp_path / "away").rename(path)
    assert batches[steps][0]["number"].tolist() == expected[steps]


def test_a_window_that_can_not_be_read_leaves_nothing_behind(numbered, tmp_path):
    batches = Batches(numbered, seed=0, size=10, window=40)
    in_order = [batches[step][0]["number"].tolist() for step in range(25)]
    for missing in range(7):
        path = tmp_path / f"shard-{missing:05d}.tar"
        path.rename(tmp_path / "away")
        for step in range(25):
            try:
                assert batches[step][0]["number"].tolist() == in_order[step]
            except UserError:
                continue
        (tmp_path / "away").rename(path)


@pytest.mark.parametrize("rank", [0, 1])
def test_any_number_of_workers_reads_the_same_from_any_step(numbered, rank, begun):
    batches = Batches(numbered, seed=0, size=64, window=90, rank=rank, ranks=2)
    plain = [batches[step] for step in range(12)]  # three epochs
    for workers, start in [(0, 0), (2, 5)]:
        # other tests leave threads in this process, beside which a fork may crash
        how = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None}
        loader = DataLoader(batches, batch_size=None, sampler=range(start, 12), **how)
        for (batch, keys), (expected, expected_keys) in zip(loader, plain[start:], strict=True):
            assert torch.equal(batch["number"], expected["number"])
            assert torch.equal(keys, expected_keys)


def test_a_copy_for_another_process_holds_no_tensors(numbered):
    """torch would share them, and workers that read into one window overwrite one another's samples."""
    batches = Batches(numbered, seed=0, size=64, window=90)
    used = batches[3]
    travelled = copy.copy(batches)  # as a pickle of it, by its state
    assert travelled._memory is None
    assert not [name for name, value in vars(travelled).items() if isinstance(value, Tensor | tuple | dict)]
    assert torch.equal(travelled[3][0]["number"], used[0]["number"])
    assert travelled._memory is not batches._memory
