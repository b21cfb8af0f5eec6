"""Noise that isn't stored: whoever reads the set gets what was made."""

import json

import pytest
import torch
from making import contents, write

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards import Batches, Shards, drawn

FIRST = 40
NOISE = drawn("test pairs", 5, FIRST, (3, 4, 4))


def make(start, stop):
    keys = randomness.keys_of(5, FIRST + start, FIRST + stop)
    noise = randomness.noises("test pairs", keys, (3, 4, 4))
    return {"noise": noise, "data": noise.flip(1), "label": torch.arange(start, stop)}


def write_pairs(folder, make=make, field=NOISE, **options):
    return write(folder, 250, 40, make, drawn={"noise": field}, **options)


def test_drawn_noise_reads_as_stored_noise_does(tmp_path):
    stored, lean = write(tmp_path / "stored", 250, 40, make), write_pairs(tmp_path / "lean")
    made = make(0, 250)
    for read in (lean.load(), stored.load()):
        assert read.keys() == made.keys()
        assert all(torch.equal(read[name], made[name]) for name in made)
    assert torch.equal(lean.read(6)["noise"], made["noise"][240:])
    assert torch.equal(lean.load(limit=41)["noise"], made["noise"][:41])
    for window in (1, 90, 65536):
        both = [Batches(shards, seed=3, size=64, window=window) for shards in (stored, lean)]
        for step in (0, 3, 4):  # the fourth straddles two epochs
            (batch, keys), (same, same_keys) = (batches[step] for batches in both)
            assert torch.equal(keys, same_keys)
            assert all(torch.equal(batch[name], same[name]) for name in made)


def test_drawn_noise_is_not_stored(tmp_path):
    stored, lean = write(tmp_path / "stored", 250, 40, make), write_pairs(tmp_path / "lean")
    saved = sum(file.bytes for file in stored.files) - sum(file.bytes for file in lean.files)
    assert saved >= 250 * 3 * 4 * 4 * 4
    assert lean.fields["noise"]["shape"] == [3, 4, 4]
    assert lean.fields["noise"]["drawn"].items() >= {"stream": "test pairs", "seed": 5, "first": 40}.items()


def test_equal_arguments_make_equal_bytes_and_finished_shards_are_kept(tmp_path):
    write_pairs(tmp_path / "a")
    before = contents(tmp_path / "a")
    write_pairs(tmp_path / "a", make=None)
    assert contents(tmp_path / "a") == before


@pytest.mark.parametrize(
    "field",
    [
        drawn("test", 5, 40, (3, 4, 4)),
        drawn("test pairs", 6, 40, (3, 4, 4)),
        drawn("test pairs", 5, 41, (3, 4, 4)),
    ],
)
def test_other_noise_is_refused(tmp_path, field):
    with pytest.raises(UserError, match=r"'noise' of samples 0 to 39 isn't the noise that .* or store it"):
        write_pairs(tmp_path, field=field)


def test_shards_made_for_other_noise_are_made_again(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(UserError, match="isn't the noise"):
        write_pairs(tmp_path, field=drawn("test pairs", 6, 40, (3, 4, 4)))


def test_noise_that_is_drawn_otherwise_today_is_refused(tmp_path):
    write_pairs(tmp_path)
    index = json.loads((tmp_path / "shards.json").read_text())
    index["fields"]["noise"]["drawn"]["begins"][1] += 0.01
    (tmp_path / "shards.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"'noise' of .* this numpy draws other numbers.*make the set again"):
        Shards(tmp_path)
