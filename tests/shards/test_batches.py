import copy

import pytest
import torch
from making import write
from torch import Tensor
from torch.utils.data import DataLoader

from fewstep.errors import UserError
from fewstep.shards import Batches, Shards


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


def test_the_order_is_that_of_no_shard(numbered):
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
    for step in range(25):
        batches[step]
        memory.add(batches._room["number"].data_ptr())
    assert sorted(held) == list(range(7))  # each shard once an epoch
    assert len(batches._room["number"]) == 90
    assert len(memory) == 1


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
def test_any_number_of_workers_reads_the_same_from_any_step(numbered, rank):
    batches = Batches(numbered, seed=0, size=64, window=90, rank=rank, ranks=2)
    plain = [batches[step] for step in range(12)]  # three epochs
    for workers, start in [(0, 0), (2, 5)]:
        # other tests leave threads in this process, beside which a fork may crash
        how = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None}
        loader = DataLoader(batches, batch_size=None, sampler=range(start, 12), **how)
        for (batch, keys), (expected, expected_keys) in zip(loader, plain[start:], strict=True):
            assert torch.equal(batch["number"], expected["number"])
            assert torch.equal(keys, expected_keys)


def test_what_travels_to_another_process_holds_no_tensors(numbered):
    """torch would share them, and workers that read into one window overwrite one another's samples."""
    batches = Batches(numbered, seed=0, size=64, window=90)
    used = batches[3]
    travelled = copy.copy(batches)  # as a pickle of it, by its state
    assert not [name for name, value in vars(travelled).items() if isinstance(value, Tensor | tuple | dict)]
    assert torch.equal(travelled[3][0]["number"], used[0]["number"])
    assert travelled._room is not batches._room
