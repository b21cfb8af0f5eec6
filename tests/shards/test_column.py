"""Some samples of many: only their bytes are read, and they are those that reading all gives."""

import pytest
import torch
from making import make, write

from fewstep.errors import UserError
from fewstep.shards import Column, Shards, drawn


def codes(start, stop):
    numbers = torch.arange(start, stop)
    return {"data": (numbers[:, None] % torch.tensor([7, 11, 13])).byte(), "number": numbers}


def wanted(total):
    """Single samples, runs over the ends of records and shards, one of them twice, in no order."""
    runs = [torch.arange(250, 305), torch.arange(590, 700), torch.arange(total - 3, total)]
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:50]
    return torch.cat([shuffled, *runs, shuffled[:5]])


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (make, {}),
        (make, {"dtypes": {"data": "bfloat16"}}),
        (codes, {"affine": {"data": (2 / 255, -1.0)}}),
    ],
)
def test_taken_samples_are_those_of_the_whole_set(tmp_path, made, options):
    whole = write(tmp_path, make=made, **options).load()
    shards, numbers = Shards(tmp_path), wanted(1000)
    for _ in range(2):
        taken = shards.take(numbers)
        assert taken.keys() == whole.keys()
        assert all(torch.equal(values, whole[name][numbers]) for name, values in taken.items())
    assert shards.take(numbers, ["data"]).keys() == {"data"}


@pytest.mark.parametrize("numbers", [[3, 1000], [-1, 2]])
def test_samples_and_fields_that_a_set_does_not_have_are_refused(tmp_path, numbers):
    shards = write(tmp_path)
    with pytest.raises(
        UserError, match=f"numbered 0 to 999; {min(numbers)} to {max(numbers)} were asked for"
    ):
        shards.take(torch.tensor(numbers))
    with pytest.raises(UserError, match="unknown field 'dta'; did you mean 'data'"):
        shards.take(torch.tensor([3]), ["dta"])
    assert len(shards.take(torch.tensor([], dtype=torch.int64))["data"]) == 0


def test_noise_that_is_not_stored_is_drawn_for_the_samples_taken(tmp_path):
    write(tmp_path, drawn={"data": drawn("test", 0, 0, (1, 2, 2))})
    taken = Shards(tmp_path).take(numbers := wanted(1000))
    assert torch.equal(taken["data"], make(0, 1000)["data"][numbers])


def test_a_set_behind_a_url_gives_them_too(tmp_path):
    whole = write("memory://column", 700).load()
    numbers = torch.tensor([699, 0, 301])
    assert torch.equal(Shards("memory://column").take(numbers)["data"], whole["data"][numbers])


def test_a_column_stands_for_a_tensor(tmp_path):
    shards = write(tmp_path)
    data, column = shards.load()["data"], Column(shards, "data")
    assert (len(column), column.shape) == (1000, data.shape)
    assert torch.equal(column[numbers := wanted(1000)], data[numbers])
    some = column.some(20, seed=0)
    assert torch.equal(some[torch.arange(20)], shards.some(20, seed=0)["data"])


def test_only_the_bytes_of_the_samples_are_read(tmp_path, monkeypatch):
    from fewstep.shards import records

    read = []
    monkeypatch.setattr(
        records,
        "_read",
        lambda room, shard, start, real=records._read: read.append(room.nbytes) or real(room, shard, start),
    )
    column = Column(write(tmp_path), "data")
    column[torch.tensor([5, 900, 6])]
    assert sorted(read) == [16, 32]  # 6 follows 5
