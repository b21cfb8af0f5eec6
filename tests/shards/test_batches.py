import pytest
import torch
from making import write

from fewstep.errors import UserError
from fewstep.shards import Batches, Shards


def keys_seen(batches, steps):
    return torch.cat([batches.at(step)[0]["number"] for step in steps]).tolist()


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
    in_order = [walked.at(step)[0]["number"].tolist() for step in range(10)]
    for step in (9, 3, 4, 0):
        assert walked.at(step)[0]["number"].tolist() == in_order[step]
        assert (
            Batches(numbered, seed=0, size=64, window=window).at(step)[0]["number"].tolist() == in_order[step]
        )


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_a_batch(numbered, ranks):
    whole = Batches(numbered, seed=0, size=64, window=90)
    parts = [Batches(numbered, seed=0, size=64, window=90, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(5):
        numbers, keys = whole.at(step)
        shared = [part.at(step) for part in parts]
        assert torch.equal(torch.cat([batch["number"] for batch, _ in shared]), numbers["number"])
        assert torch.equal(torch.cat([keys for _, keys in shared]), keys)


def test_keys_never_repeat(numbered):
    batches = Batches(numbered, seed=5, size=64)
    assert batches.at(3)[1].tolist() == [[5, 3 * 64 + position] for position in range(64)]


def test_a_batch_may_hold_several_epochs(numbered):
    batch, _ = Batches(numbered, seed=0, size=500).at(0)
    assert sorted(batch["number"].tolist()) == sorted(2 * list(range(250)))


def test_uneven_batches_are_refused(numbered):
    with pytest.raises(UserError, match=r"10 samples.*3 processes"):
        Batches(numbered, seed=0, size=10, rank=0, ranks=3)
    with pytest.raises(UserError, match="0 samples"):
        Batches(numbered, seed=0, size=0)


def test_memory_is_bounded_by_the_window(numbered, monkeypatch):
    read, held = Shards.read_stored, []
    monkeypatch.setattr(Shards, "read_stored", lambda self, number: held.append(number) or read(self, number))
    batches = Batches(numbered, seed=0, size=10, window=90)
    for step in range(25):
        batches.at(step)
    assert sorted(held) == list(range(7))  # each shard once an epoch
    assert len(batches._stored[1]["number"]) <= 90
